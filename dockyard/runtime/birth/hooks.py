"""Programs that the spec asks to be run at points of a container's life, with the container's state on their stdin.

prestart and createRuntime run in the runtime's namespaces, createContainer in the container's but still with the host's
files, startContainer in the container; poststart and poststop again in the runtime's (runtime-spec config.md, "Hooks").
"""

from collections.abc import Sequence

from dockyard.oci.runtime_spec import Hook, Hooks, State, encode
from dockyard.runtime.errors import RuntimeFailure


def check(wanted: Hooks | None) -> None:
    """Raise RuntimeFailure for a hook that can't be."""
    if wanted is None:
        return
    for kind in ("prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop"):
        for number, hook in enumerate(getattr(wanted, kind)):
            if not hook.path.startswith("/"):
                raise RuntimeFailure(f"{_spoken(kind)} hook #{number}: path {hook.path!r} is not absolute")
            if hook.timeout is not None and hook.timeout <= 0:
                raise RuntimeFailure(f"{_spoken(kind)} hook #{number}: timeout must be greater than zero")


def want_environment(wanted: Hooks | None) -> bool:
    """Whether one that runs on the runtime's side while a container is made or started gets the runtime's."""
    return wanted is not None and any(
        hook.env is None for hook in (*wanted.prestart, *wanted.create_runtime, *wanted.poststart, *wanted.poststop)
    )


def _spoken(kind: str) -> str:
    first, *others = kind.split("_")
    return first + "".join(word.capitalize() for word in others)


def prepare() -> None:
    """Load what running hooks takes, while it can be: in the container's tree its library would be the container's."""
    import subprocess  # noqa: F401


def run(
    kind: str,
    wanted: Sequence[Hook],
    state: State,
    *,
    directory: str | None = None,
    environment: Sequence[str] | None = None,
    fatal: bool = True,
) -> list[str]:
    """Run hooks one after the other; `environment` is that of those that say none (None: ours).

    Raises RuntimeFailure for the first that fails or takes too long, if `fatal`; else returns what went wrong.
    """
    failures: list[str] = []
    data = encode(state) if wanted else b""
    for number, hook in enumerate(wanted):
        failure = _run(hook, data, directory, environment)
        if not failure:
            continue
        failure = f"error running {kind} hook #{number}: {failure}"
        if fatal:
            raise RuntimeFailure(failure)
        failures.append(failure)
    return failures


def _signal_name(number: int) -> str:
    import signal

    return (signal.strsignal(number) or str(number)).lower()


def _run(hook: Hook, state: bytes, directory: str | None, environment: Sequence[str] | None) -> str:
    """What went wrong, or nothing."""
    import subprocess  # only where there are hooks: the path of an ordinary start does without it

    said = hook.env if hook.env is not None else environment
    env = None if said is None else dict(entry.partition("=")[::2] for entry in said if "=" in entry)
    try:
        done = subprocess.run(
            hook.args or [hook.path],
            executable=hook.path,
            input=state,
            env=env,
            cwd=directory,
            capture_output=True,
            timeout=hook.timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"hook ran past specified timeout of {float(hook.timeout or 0):.1f}s"
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"fork/exec {hook.path}: {reason[:1].lower()}{reason[1:]}"
    if done.returncode == 0:
        return ""
    how = f"exit status {done.returncode}" if done.returncode > 0 else f"signal: {_signal_name(-done.returncode)}"
    stdout, stderr = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    return f"{how}, stdout: {stdout}, stderr: {stderr}"
