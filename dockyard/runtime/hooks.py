"""Programs that the spec asks to be run at points of a container's life, with the container's state on their stdin."""

from collections.abc import Sequence

from dockyard.oci.runtime_spec import VERSION, Hook, Spec, State, encode
from dockyard.runtime.errors import RuntimeFailure


def run(
    hooks: Sequence[Hook], spec: Spec, container_id: str, status: str, pid: int, bundle: str, *, fatal: bool = True
) -> None:
    """Run `hooks` one after the other. Raises RuntimeFailure for one that fails or takes too long, if `fatal`."""
    if not hooks:
        return
    import subprocess  # only where there are hooks: the path of an ordinary start does without it

    state = State(
        oci_version=VERSION,
        id=container_id,
        status=status,
        pid=pid,
        bundle=bundle,
        annotations=spec.annotations,
    )
    data = encode(state)
    for number, hook in enumerate(hooks):
        try:
            done = subprocess.run(
                hook.args or [hook.path],
                executable=hook.path,
                input=data,
                env=dict(entry.partition("=")[::2] for entry in hook.env),
                capture_output=True,
                timeout=hook.timeout,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            if fatal:
                raise RuntimeFailure(f"error running hook #{number}: {hook.path}: {error}") from error
            continue
        if done.returncode != 0 and fatal:
            said = done.stderr.decode(errors="replace").strip()
            raise RuntimeFailure(f"error running hook #{number}: exit status {done.returncode}, stderr: {said}")
