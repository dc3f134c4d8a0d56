"""Build arguments: which are declared, what they are worth where, and which nobody used."""

from __future__ import annotations

from collections.abc import Mapping

# Accepted without an ARG, and no part of the cache key (Dockerfile reference, "Predefined ARGs").
PREDEFINED = frozenset(
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (upper, upper.lower())
)


class Arguments:
    """The arguments as one stage sees them."""

    def __init__(self, given: Mapping[str, str | None], platform: Mapping[str, str]) -> None:
        """`given` on the command line (None: named but without a value there); `platform`: TARGETARCH and its like."""
        self._given = given
        self._platform = platform
        self._global: dict[str, str | None] = {}
        self._declared: dict[str, str | None] = {}
        self._used: set[str] = set()

    def stage(self, base: Arguments | None = None) -> Arguments:
        """The arguments at the start of a stage: nothing is declared yet but what the stage below it has declared."""
        inner = Arguments(self._given, self._platform)
        if base is not None:
            inner._declared = dict(base._declared)
        inner._global = self._global
        inner._used = self._used
        return inner

    def declare_global(self, name: str, default: str | None) -> None:
        """An ARG before the first FROM."""
        self._global[name] = default
        self._used.add(name)

    def declare(self, name: str, default: str | None) -> None:
        """An ARG inside a stage; without a default it takes up the global one's."""
        if default is None:
            default = self._global.get(name, self._platform.get(name))
        self._declared[name] = default
        self._used.add(name)

    def worth(self, name: str) -> str | None:
        """What an argument of the stage is worth."""
        return self._worth(name, self._declared.get(name))

    def _worth(self, name: str, default: str | None) -> str | None:
        given = self._given.get(name)
        return given if given is not None else default

    def given(self, name: str) -> bool:
        """Whether the client has said what it is."""
        return self._given.get(name) is not None

    def global_names(self) -> list[str]:
        """Those declared before the first FROM, also without a value."""
        return list(self._global)

    def global_values(self) -> dict[str, str]:
        """What variables in FROM stand for."""
        values = dict(self._platform)
        for name, default in self._global.items():
            worth = self._worth(name, default)
            if worth is not None:
                values[name] = worth
        return values

    def values(self) -> dict[str, str]:
        """What variables inside the stage stand for (where the image's ENV does not say otherwise)."""
        found = {}
        for name, default in self._declared.items():
            worth = self._worth(name, default)
            if worth is not None:
                found[name] = worth
        return {**self.predefined(), **found}

    def predefined(self) -> dict[str, str]:
        """Those that need no ARG, where the client has given them."""
        given = {name: self._given.get(name) for name in sorted(PREDEFINED)}
        return {name: value for name, value in given.items() if value is not None}

    def declared(self) -> dict[str, str]:
        """Those that the stage has declared, also without a value."""
        return {name: value or "" for name, value in self._declared.items()}

    def counts_for_cache(self, name: str) -> bool:
        """Whether RUN with another value of `name` is another step."""
        return name in self._declared or name not in PREDEFINED

    def unused(self) -> list[str]:
        """Arguments given that no ARG declared."""
        return sorted(name for name in self._given if name not in self._used and name not in PREDEFINED)
