"""The kinds of values in a project: how each is read, when it counts as not there, and how it is written.

A kind reads what a file's canonical form has (`read`), tells whether a value is left out (`empty`), and gives what JSON
and YAML have for it. Both writings follow Compose's own types: an image's labels and a service's configuration hash are
made of them.
"""

from __future__ import annotations

from dockyard.compose.errors import ComposeError
from dockyard.compose.model import go_values
from dockyard.compose.model.go_values import sprint
from dockyard.compose.model.key_order import by_key, deep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Tree = dict[str, Any]


class Kind:
    """A plain text, and what all kinds have in common."""

    name = "string"

    def read(self, value: Any, where: str) -> Any:
        """What is kept of `value`. Raises ComposeError, which says `where`."""
        if isinstance(value, str):
            return str(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise self.wrong(value, where)

    def wrong(self, value: Any, where: str) -> ComposeError:
        """The error for a value that this kind cannot have."""
        return ComposeError(f"'{where}' expected type '{self.name}', got unconvertible type '{type(value).__name__}'")

    def empty(self, value: Any) -> bool:
        """Whether it is left out when it may be."""
        return not value

    def json(self, value: Any) -> Any:
        """What JSON has for it."""
        return value

    def yaml(self, value: Any) -> Any:
        """What YAML has for it."""
        return self.json(value)


class Boolean(Kind):
    """True or false."""

    name = "bool"

    def read(self, value: Any, where: str) -> Any:
        if isinstance(value, bool):
            return value
        if isinstance(value, str):
            return boolean(value)
        raise self.wrong(value, where)


def boolean(text: str) -> bool:
    """What YAML 1.1 took for a boolean. Raises ComposeError."""
    lowered = text.lower()
    if lowered in ("true", "y", "yes", "on"):
        return True
    if lowered in ("false", "n", "no", "off"):
        return False
    raise ComposeError(f"invalid boolean: {text}")


class Whole(Kind):
    """A whole number."""

    name = "int"

    def read(self, value: Any, where: str) -> Any:
        if isinstance(value, bool):
            raise self.wrong(value, where)
        if isinstance(value, (int, float)):
            return int(value)
        if isinstance(value, str):
            return integer(value)
        raise self.wrong(value, where)


def integer(text: str) -> int:
    """A decimal number. Raises ComposeError."""
    try:
        if not text.strip() == text or "_" in text:
            raise ValueError
        return int(text)
    except ValueError:
        raise ComposeError(f'strconv.Atoi: parsing "{text}": invalid syntax') from None


class Single(Kind):
    """A number of 32 bits with a fraction."""

    name = "float32"

    def read(self, value: Any, where: str) -> Any:
        if isinstance(value, bool):
            raise self.wrong(value, where)
        return go_values.single(number(value) if isinstance(value, str) else float(value))

    def json(self, value: Any) -> Any:
        return Float(value)


class Float(float):
    """A 32-bit number that is written as shortly as it can be."""


def number(text: str) -> float:
    """A number with a fraction. Raises ComposeError."""
    try:
        return float(text)
    except ValueError:
        raise ComposeError(f'strconv.ParseFloat: parsing "{text}": invalid syntax') from None


class Size(Kind):
    """Bytes, read from a number or "512m", written as text."""

    name = "types.UnitBytes"

    def read(self, value: Any, where: str) -> Any:
        if isinstance(value, bool):
            return 0
        if isinstance(value, int):
            return value
        return go_values.size(value) if isinstance(value, str) else 0

    def json(self, value: Any) -> Any:
        return str(value)


class Duration(Kind):
    """Nanoseconds, read from and written as "1m30s"."""

    name = "types.Duration"

    def read(self, value: Any, where: str) -> Any:
        return go_values.duration(sprint(value))

    def json(self, value: Any) -> Any:
        return go_values.duration_text(value)


class Mode(Kind):
    """Permissions of a file, in octal when written as text."""

    name = "types.FileMode"

    def read(self, value: Any, where: str) -> Any:
        if isinstance(value, str):
            try:
                return int(value, 8)
            except ValueError:
                raise ComposeError(f'strconv.ParseInt: parsing "{value}": invalid syntax') from None
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise self.wrong(value, where)

    def json(self, value: Any) -> Any:
        return f"0{value:o}"


class Count(Kind):
    """How many devices: a number, or "all", which is -1."""

    name = "types.DeviceCount"

    def read(self, value: Any, where: str) -> Any:
        if isinstance(value, int):
            return value
        if str(value).lower() == "all":
            return -1
        try:
            return int(value)
        except ValueError:
            raise ComposeError(f"invalid value \"{value}\", the only value allowed is 'all' or a number") from None


class Cpus(Single):
    """Cores, as a number or text."""

    name = "types.NanoCPUs"


class Texts(Kind):
    """A list of texts."""

    name = "[]string"

    def read(self, value: Any, where: str) -> Any:
        if isinstance(value, list):
            return [Kind.read(self, item, f"{where}[{index}]") for index, item in enumerate(value)]
        raise self.wrong(value, where)

    def json(self, value: Any) -> Any:
        return list(value)


class TextOrTexts(Texts):
    """One text, or a list of them."""

    def read(self, value: Any, where: str) -> Any:
        if isinstance(value, str):
            return [str(value)]
        return super().read(value, where)


class AnyTexts(Texts):
    """A list of texts and numbers."""

    def read(self, value: Any, where: str) -> Any:
        return [str(value)] if isinstance(value, str) else [sprint(item) for item in value]


class Command(Kind):
    """A command: None when it is the image's, an empty list when there is none."""

    name = "types.ShellCommand"

    def read(self, value: Any, where: str) -> Any:
        if isinstance(value, str):
            return go_values.words(value)
        if isinstance(value, list):
            return [str(item) for item in value]
        return None

    def empty(self, value: Any) -> bool:
        return value is None


class HealthTest(Kind):
    """A health check's command."""

    name = "types.HealthCheckTest"

    def read(self, value: Any, where: str) -> Any:
        if isinstance(value, str):
            return ["CMD-SHELL", str(value)]
        if isinstance(value, list):
            return [str(item) for item in value]
        raise ComposeError(f"unexpected value type {type(value).__name__} for healthcheck.test")


class Pairs(Kind):
    """Names and texts, from a mapping or a list of NAME=VALUE; what has no value is ""."""

    name = "mapping"

    def read(self, value: Any, where: str) -> Any:
        if isinstance(value, dict):
            return {key: "" if item is None else sprint(item) for key, item in value.items()}
        if isinstance(value, list):
            return {key: text for key, _, text in (sprint(item).partition("=") for item in value)}
        raise ComposeError(f"unexpected value type {type(value).__name__} for {self.name}")

    def json(self, value: Any) -> Any:
        return dict(sorted(value.items()))

    def yaml(self, value: Any) -> Any:
        return by_key(value)


class Labels(Pairs):
    """Labels."""

    name = "labels"


class Variables(Kind):
    """Names and texts; None is for a variable whose value comes from elsewhere."""

    name = "mapping"

    def read(self, value: Any, where: str) -> Any:
        if isinstance(value, dict):
            return {key: None if item is None else sprint(item) for key, item in value.items()}
        if not isinstance(value, list):
            raise ComposeError(f"unexpected value type {type(value).__name__} for mapping")
        found: Tree = {}
        for item in value:
            name, equals, text = sprint(item).partition("=")
            if name and name[-1].isspace():
                raise ComposeError(f"environment variable {name} is declared with a trailing space")
            found[name] = text if equals else None
        return found

    def json(self, value: Any) -> Any:
        return dict(sorted(value.items()))

    def yaml(self, value: Any) -> Any:
        return by_key(value)


class Options(Kind):
    """Names and texts, from a mapping."""

    name = "types.Options"

    def read(self, value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise ComposeError(f"invalid type {type(value).__name__} for options")
        return {key: "" if item is None else sprint(item) for key, item in value.items()}

    def json(self, value: Any) -> Any:
        return dict(sorted(value.items()))

    def yaml(self, value: Any) -> Any:
        return by_key(value)


class ManyOptions(Kind):
    """Names, each with a list of texts."""

    name = "types.MultiOptions"

    def read(self, value: Any, where: str) -> Any:
        return {
            key: [sprint(one) for one in (item if isinstance(item, list) else [item])] for key, item in value.items()
        }

    def json(self, value: Any) -> Any:
        return dict(sorted(value.items()))

    def yaml(self, value: Any) -> Any:
        return by_key(value)


class Hosts(Kind):
    """Host names, each with a list of addresses; written as a list of NAME=ADDRESS."""

    name = "types.HostsList"

    def read(self, value: Any, where: str) -> Any:
        found: dict[str, list[str]] = {}
        if isinstance(value, dict):
            for host, given in value.items():
                found[host] = [sprint(item) for item in given] if isinstance(given, list) else [given or ""]
        else:
            for item in value:
                host, separator, addresses = _host_and_addresses(sprint(item))
                if not separator:
                    raise ComposeError(f"invalid additional host, missing IP: {item}")
                found.setdefault(host, []).extend(addresses.split(","))
        for host in found:
            if not host or ":" in host or "=" in host:
                raise ComposeError(f"bad host name '{host}'")
        return {host: [_without_brackets(one) for one in some] for host, some in found.items()}

    def json(self, value: Any) -> Any:
        return sorted(f"{host}={address}" for host, addresses in value.items() for address in addresses)


def _without_brackets(address: str) -> str:
    return address[1:-1] if address.startswith("[") and address.endswith("]") and len(address) > 2 else address


def _host_and_addresses(text: str) -> tuple[str, str, str]:
    host, separator, addresses = text.partition("=")
    return (host, separator, addresses) if separator else text.partition(":")


class Keys(Kind):
    """SSH agents and keys: {id: path or None}; written as a list."""

    name = "types.SSHConfig"

    def read(self, value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise ComposeError(f"invalid ssh config type {type(value).__name__}")
        return {key: None if path is None else sprint(path) for key, path in value.items()}

    def json(self, value: Any) -> Any:
        return [f"{key}: {path}" if path else key for key, path in sorted(value.items())]


class Anything(Kind):
    """Whatever is there: an extension's value."""

    name = "any"

    def read(self, value: Any, where: str) -> Any:
        return value


class ListOf(Kind):
    """A list of one kind."""

    def __init__(self, item: Kind) -> None:
        self._item = item

    def read(self, value: Any, where: str) -> Any:
        if not isinstance(value, list):
            raise ComposeError(f"'{where}': source data must be an array or slice, got {type(value).__name__}")
        return [self._item.read(item, f"{where}[{index}]") for index, item in enumerate(value)]

    def json(self, value: Any) -> Any:
        return [self._item.json(item) for item in value]

    def yaml(self, value: Any) -> Any:
        return [self._item.yaml(item) for item in value]


class MapOf(Kind):
    """Names, each with one kind; with `nulls` a name may have nothing."""

    def __init__(self, item: Kind, *, nulls: bool = False) -> None:
        self._item = item
        self._nulls = nulls

    def read(self, value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise ComposeError(f"'{where}' expected a map, got '{type(value).__name__}'")
        return {
            key: None if item is None and self._nulls else self._item.read(item or {}, f"{where}[{key}]")
            for key, item in value.items()
        }

    def json(self, value: Any) -> Any:
        return {key: None if item is None else self._item.json(item) for key, item in sorted(value.items())}

    def yaml(self, value: Any) -> Any:
        return {key: None if item is None else self._item.yaml(item) for key, item in by_key(value).items()}


class Field:
    """A key of a record. `kept`: written even when empty; `pointer`: left out only when it is not there."""

    def __init__(self, kind: Kind, *, kept: str = "", pointer: bool = False, json: str = "", only: str = "") -> None:
        """`kept`: "json", "yaml" or "both"; `json`: its name there; `only` "yaml" leaves it out of JSON."""
        self.kind = kind
        self.kept = kept
        self.pointer = pointer
        self.json = json
        self.only = only


class Record(Kind):
    """A mapping of known keys, in their order; other keys are extensions, which YAML has after them.

    What is not there stays away; what is there and counts as empty, too, unless its field says otherwise.
    """

    def __init__(self, fields: dict[str, Kind | Field], *, name: str = "record") -> None:
        self.fields = {key: one if isinstance(one, Field) else Field(one) for key, one in fields.items()}
        self.name = name

    def read(self, value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise ComposeError(f"'{where}' expected a map, got '{type(value).__name__}'")
        found: Tree = {}
        for key, field in self.fields.items():
            if key not in value or value[key] is None:
                continue
            read = field.kind.read(value[key], f"{where}.{key}" if where else key)
            if field.pointer or field.kept or not field.kind.empty(read):
                found[key] = read
        for key in sorted(value):
            if key.startswith("x-") and key not in self.fields:
                found[key] = value[key]
        return found

    def json(self, value: Any) -> Any:
        found: Tree = {}
        for key, field in self.fields.items():
            if field.only == "yaml":
                continue
            if key in value:
                found[field.json or key] = field.kind.json(value[key])
            elif field.kept in ("json", "both"):
                found[field.json or key] = field.kind.json(_NOTHING[type(field.kind)]())
        return found

    def yaml(self, value: Any) -> Any:
        found: Tree = {}
        for key, field in self.fields.items():
            if key in value:
                written = field.kind.yaml(value[key])
                if field.kept == "json" and field.kind.empty(value[key]):
                    continue
                found[key] = written
            elif field.kept in ("yaml", "both"):
                found[key] = field.kind.yaml(_NOTHING[type(field.kind)]())
        extensions = {key: item for key, item in value.items() if key.startswith("x-") and key not in self.fields}
        return {**found, **deep(extensions)}


# what a kept field has when nothing was given
_NOTHING: dict[type[Kind], Any] = {
    Kind: str,
    Whole: int,
    Size: int,
    Boolean: bool,
    Command: lambda: None,
    Record: dict,
}
