"""daemon.json's `builder`: what builds may be granted, what of their cache is kept (moby daemon/config/builder.go)."""

from __future__ import annotations

import msgspec


class Entitlements(msgspec.Struct, frozen=True, rename="kebab"):
    """What a client may ask for with `--allow`; None: as the daemon has it when nothing is said."""

    network_host: bool | None = None
    security_insecure: bool | None = None

    @property
    def refused(self) -> frozenset[str]:
        """Those that no build is granted: a RUN with all privileges must have been allowed here."""
        granted = {
            "network.host": self.network_host is not False,
            "security.insecure": self.security_insecure is True,
        }
        return frozenset(name for name, allowed in granted.items() if not allowed)


class CacheRule(msgspec.Struct, frozen=True, rename="camel"):
    """What of the cache goes first: what the filters mean, until the sizes are kept. `all`: what images share, too."""

    all: bool = False
    filter: list[str] = []
    keep_storage: int | str = ""  # what `reservedSpace` was called
    reserved_space: int | str = ""
    max_used_space: int | str = ""
    min_free_space: int | str = ""


class CacheCollection(msgspec.Struct, frozen=True, rename="camel"):
    """What is let go by itself; without a policy there is one rule, of the defaults."""

    enabled: bool = True
    policy: list[CacheRule] = []
    default_keep_storage: int | str = ""  # what `defaultReservedSpace` was called
    default_reserved_space: int | str = ""
    default_max_used_space: int | str = ""
    default_min_free_space: int | str = ""


class BuilderSettings(msgspec.Struct, frozen=True, rename="camel"):
    """The whole of it."""

    gc: CacheCollection = CacheCollection()
    entitlements: Entitlements = Entitlements()
