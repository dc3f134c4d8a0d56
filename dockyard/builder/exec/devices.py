"""Devices of the host that a command is given by name, as far as whoever builds is allowed to give them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence

from dockyard.dockerfile.devices import DeviceFlag
from dockyard.engine.containers.spec.cdi import Catalogue, read_catalogue
from dockyard.errors import InvalidParameter

# annotations of specifications and devices (BuildKit, docs/cdi.md)
ALLOWED = "org.mobyproject.buildkit.device.autoallow"
CLASS = "org.mobyproject.buildkit.device.class"
_ENTITLEMENT = "device"


def resolved(flags: Sequence[DeviceFlag], directories: Sequence[str], entitlements: Iterable[str]) -> tuple[str, ...]:
    """The qualified names of the devices that `flags` want, by what specifications in `directories` describe.

    Raises InvalidParameter for a required one that is not there, and for those that neither the client's
    `entitlements` nor their own annotations allow.
    """
    if not flags:
        return ()
    catalogue = read_catalogue(directories)
    everything, granted = _granted(entitlements)
    found: dict[str, None] = {}
    forbidden: dict[str, None] = {}
    allowed = {name for wanted in granted.values() for name in _meant(wanted, catalogue)}
    for flag in flags:
        names = _meant(granted.get(flag.name, flag.name), catalogue)
        if not names and flag.required:
            raise InvalidParameter(f'required device "{flag.name}" is not registered')
        for name in names:
            permitted = everything or name in allowed or _annotation(catalogue, name, ALLOWED) in ("true", "1", "t")
            (found if permitted else forbidden)[name] = None
    if forbidden:
        several, are = ("s", "are") if len(forbidden) > 1 else ("", "is")
        raise InvalidParameter(f"device{several} {', '.join(forbidden)} {are} requested by the build but not allowed")
    return tuple(found)


def _granted(entitlements: Iterable[str]) -> tuple[bool, dict[str, str]]:
    """Whether all devices are allowed, and those that are, by the names that the build has for them."""
    everything, granted = False, dict[str, str]()
    for text in entitlements:
        kind, equals, rest = text.partition("=")
        if kind != _ENTITLEMENT:
            continue
        everything = everything or not equals
        name, *options = next(csv.reader([rest]), []) or [""]
        for option in options:
            key, _, value = option.partition("=")
            if key != "alias":
                raise InvalidParameter(f"unknown device config key {option!r}")
            granted[value] = name
        if name and not options:
            granted[name] = name
    return everything, granted


def _meant(wanted: str, catalogue: Catalogue) -> list[str]:
    """The devices that a name means: `kind=name`, the first of a `kind`, all of `kind=*`, or those of a class."""
    kind, _, name = wanted.partition("=")
    names = sorted(catalogue.devices)
    found: list[str] = []
    if "/" in kind:
        of_kind = [one for one in names if one.startswith(f"{kind}=")]
        found = of_kind[:1] if not name else of_kind if name == "*" else [one for one in of_kind if one == wanted]
    return found or [one for one in names if _annotation(catalogue, one, CLASS) == wanted]


def _annotation(catalogue: Catalogue, name: str, key: str) -> str:
    specification, device = catalogue.devices[name]
    value = {**specification.annotations, **device.annotations}.get(key, "")
    return str(value).lower() if isinstance(value, bool) else str(value)
