"""Variables replaced in a whole tree, and texts cast to what their place wants."""

from __future__ import annotations

from dockyard.compose.errors import ComposeError
from dockyard.compose.model.go_values import single
from dockyard.compose.model.kinds import boolean, integer, number
from dockyard.compose.model.variables import InvalidTemplate, MissingVariable, substitute
from dockyard.compose.model.yaml_source import Date

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dockyard.compose.model.variables import Lookup, Unset

    Tree = dict[str, Any]


def _single(text: str) -> float:
    return single(number(text))


_SERVICE_CASTS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(
        """
        cpu_count cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares deploy.replicas
        deploy.update_config.parallelism deploy.rollback_config.parallelism deploy.restart_policy.max_attempts
        deploy.placement.max_replicas_per_node healthcheck.retries oom_score_adj pids_limit ports.[].target scale
        ulimits.* ulimits.*.hard ulimits.*.soft
        """.split(),
        integer,
    ),
    **dict.fromkeys(
        "cpu_percent deploy.update_config.max_failure_ratio deploy.rollback_config.max_failure_ratio".split(), number
    ),
    "cpus": _single,
    **dict.fromkeys(
        """
        init healthcheck.disable oom_kill_disable privileged read_only stdin_open tty volumes.[].read_only
        volumes.[].volume.nocopy
        """.split(),
        boolean,
    ),
}
_CASTS: dict[tuple[str, ...], Callable[[str], Any]] = {
    **{("services", "*", *key.split(".")): cast for key, cast in _SERVICE_CASTS.items()},
    **{("networks", "*", key): boolean for key in ("external", "internal", "attachable", "enable_ipv4", "enable_ipv6")},
    **{(section, "*", "external"): boolean for section in ("volumes", "secrets", "configs")},
}
_CAST_SECTIONS = ("services", "networks", "volumes", "secrets", "configs")


class Interpolation:
    """Replaces variables by what `lookup` knows; tells `unset` of those without a value, `warn` of odd booleans."""

    def __init__(self, lookup: Lookup, unset: Unset, warn: Callable[[str], None]) -> None:
        self._lookup = lookup
        self._unset = unset
        self._warn = warn

    def tree(self, tree: Tree) -> Tree:
        """A copy of `tree`. Raises ComposeError that says where."""
        return {key: self._value(value, (key,)) for key, value in tree.items()}

    def text(self, text: str) -> str:
        """One text. Raises ComposeError."""
        return substitute(text, self._lookup, self._unset)

    def _value(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, str):
            return value if isinstance(value, Date) else self._text(value, path)
        if isinstance(value, dict):
            return {key: self._value(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._value(item, (*path, "[]")) for item in value]
        return value

    def _text(self, value: str, path: tuple[str, ...]) -> Any:
        if "$" in value:
            try:
                value = substitute(value, self._lookup, self._unset)
            except InvalidTemplate as error:
                raise ComposeError(
                    f"invalid interpolation format for {'.'.join(path)}.\n"
                    f"You may need to escape any $ with another $.\n{error}"
                ) from None
            except MissingVariable as error:
                raise ComposeError(f"error while interpolating {'.'.join(path)}: {error}") from None
        if path[0] in _CAST_SECTIONS:
            return self._cast(value, path)
        return value

    def _cast(self, value: str, path: tuple[str, ...]) -> Any:
        cast = _CASTS.get(_general(path))
        if cast is None:
            return value
        try:
            found = cast(value)
        except ComposeError as error:
            place = ".".join(path)
            raise ComposeError(f"error while interpolating {place}: failed to cast to expected type: {error}") from None
        if cast is boolean and value.lower() not in ("true", "false"):
            word = "true" if found else "false"
            self._warn(f'"{value}" for boolean is not supported by YAML 1.2, please use `{word}`')
        return found


def _general(path: tuple[str, ...]) -> tuple[str, ...]:
    """A path with * for the names that users choose."""
    if len(path) > 3 and path[2] == "ulimits":
        return (path[0], "*", "ulimits", "*", *path[4:])
    return (path[0], "*", *path[2:])
