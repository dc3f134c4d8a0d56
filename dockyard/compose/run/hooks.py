"""Commands in a container after its start and before its stop: `post_start` and `pre_stop`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dockyard.client.container import Container
from dockyard.compose.errors import ComposeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dockyard.compose.plan.observed import Observed
    from dockyard.compose.run.application import Application

    # takes the container's short name and a line
    Output = Callable[[str, str], None]


def run_hooks(
    application: Application, container: Observed, hooks: Iterable[dict[str, Any]], output: Output | None = None
) -> None:
    """Run a container's hooks one after the other. Raises ComposeError for one that fails, APIError."""
    for hook in hooks:
        command = hook.get("command")
        if not command:
            raise ComposeError("hook without a command")
        variables = [
            key if value is None else f"{key}={value}" for key, value in (hook.get("environment") or {}).items()
        ]
        there: Container[Any] = Container(application.engine.client._session, container.id)
        result = there.exec(
            command,
            environment=variables,
            user=hook.get("user", ""),
            working_dir=hook.get("working_dir", ""),
            privileged=bool(hook.get("privileged")),
        )
        if output is not None:
            for line in (result.stdout + result.stderr).decode(errors="replace").splitlines():
                output(f"{container.short_name} ->", line)
        if result.exit_code:
            raise ComposeError(f"{container.service} hook exited with status {result.exit_code}")
