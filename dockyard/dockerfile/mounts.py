"""`RUN --mount=…`: what it says, before variables are replaced in it (Dockerfile reference, "RUN --mount")."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass

from dockyard.dockerfile.suggestions import suggestion
from dockyard.errors import InvalidParameter

KINDS = ("bind", "cache", "tmpfs", "secret", "ssh")
SHARING = ("shared", "private", "locked")
_NAMES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_ALLOWED = {
    "bind": {"source", "target", "from", "readonly", "readwrite"},
    "cache": {"id", "target", "from", "source", "readonly", "readwrite", "sharing", "mode", "uid", "gid"},
    "tmpfs": {"target", "size"},
    "secret": {"id", "source", "target", "required", "mode", "uid", "gid", "env"},
    "ssh": {"id", "target", "required", "mode", "uid", "gid"},
}
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True)
class RunMount:
    """One mount; `options` have their long names. `stage` is what `from` says."""

    kind: str
    options: dict[str, str]

    @property
    def stage(self) -> str:
        return self.options.get("from", "")

    def flag(self, name: str) -> bool:
        """Whether a boolean option is set. Raises InvalidParameter."""
        return _flag(name, self.options.get(name, "false"))

    def number(self, name: str) -> int:
        """A number of 0 for none. Raises InvalidParameter."""
        text = self.options.get(name, "")
        if text and not re.fullmatch(r"\d{1,10}", text):
            raise InvalidParameter(f"invalid value {text} for {name}")
        return int(text or 0)

    @property
    def mode(self) -> int | None:
        """Permissions; None when they are not given."""
        text = self.options.get("mode", "")
        if text and not re.fullmatch(r"[0-7]{1,5}", text):
            raise InvalidParameter(f"invalid value {text} for mode")
        return int(text, 8) if text else None

    @property
    def size(self) -> int:
        """Of a tmpfs, bytes; 0: no limit."""
        text = self.options.get("size", "")
        found = re.fullmatch(r"(\d+)\s*([bkmgt]?)(?:i?b)?", text.lower())
        if text and found is None:
            raise InvalidParameter(f"invalid value for size: {text}")
        return int(found[1]) * _UNITS[found[2]] if found is not None else 0


def parse_mount(text: str) -> RunMount:
    """What follows `--mount=`. Raises InvalidParameter."""
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise InvalidParameter(f"failed to parse csv mounts: {error}") from None
    options: dict[str, str] = {}
    for field in fields:
        name, equals, value = field.partition("=")
        name = _NAMES.get(name.strip().lower(), name.strip().lower())
        if not equals:
            if name not in ("readonly", "readwrite", "required"):
                raise InvalidParameter(f"invalid field '{field}' must be a key=value pair")
            value = "true"
        options[name] = value
    kind = options.pop("type", "bind")
    if "$" in options.get("from", ""):
        raise InvalidParameter("'from' doesn't support variable expansion, define alias stage instead")
    if "$" in text:  # what variables stand for is known when the step is reached
        return RunMount(kind, options)
    return checked_mount(kind, options)


def checked_mount(kind: str, options: dict[str, str]) -> RunMount:
    """A mount whose options, in their long names, are what its kind takes. Raises InvalidParameter."""
    if kind not in KINDS:
        raise InvalidParameter(f'unsupported mount type "{kind}"{suggestion(kind, KINDS)}')
    for name in options:
        if name not in _ALLOWED[kind]:
            known = sorted({one for names in _ALLOWED.values() for one in names} | {"type"})
            near = suggestion(name, known) if name not in known else ""
            raise InvalidParameter(f"unexpected key '{name}' for mount type '{kind}'{near}")
    if options.get("sharing", "shared") not in SHARING:
        wrong = options["sharing"]
        raise InvalidParameter(f'unsupported sharing value "{wrong}"{suggestion(wrong, SHARING)}')
    for name in ("readonly", "readwrite", "required"):
        if name in options:
            _flag(name, options[name])
    mount = RunMount(kind, options)
    if kind == "secret" and options.get("id") and options.get("source"):
        raise InvalidParameter("both source and id can't be set")
    if kind == "secret" and not (options.get("id") or options.get("source") or options.get("target")):
        raise InvalidParameter("invalid secret mount. one of source, target required")
    return mount


def _flag(name: str, text: str) -> bool:
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise InvalidParameter(f"invalid value for {name}: {text}")
