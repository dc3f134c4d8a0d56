"""The functions of Go's text/template and of Docker's command line, and how Go prints values."""

from __future__ import annotations

from dockyard.gotemplate import go_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Value = Any


class CallError(Exception):
    """A function cannot do what is asked; the words are Go's."""


class Nil:
    """A value that is not there: `shown` is how Go prints one of its type; as JSON it is null."""

    def __init__(self, shown: str = "<no value>") -> None:
        self.shown = shown

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Nil)

    def __hash__(self) -> int:
        return 0


MISSING = Nil()
# Dictionaries that Go knows as structs, whose values it prints without their names; the first key tells them.
_STRUCTS = (
    ("HostPort", ("HostIp", "HostPort")),
    ("MaximumRetryCount", ("Name", "MaximumRetryCount")),
    ("Propagation", ("Type", "Name", "Source", "Destination", "Driver", "Mode", "RW", "Propagation")),
    ("Config", ("Type", "Config")),
    ("Config", ("Driver", "Options", "Config")),
    ("Subnet", ("Subnet", "IPRange", "Gateway", "AuxiliaryAddresses")),
    ("IPv4Address", ("Name", "EndpointID", "MacAddress", "IPv4Address", "IPv6Address")),
)
_EMPTY_MAPS = ("AuxiliaryAddresses", "Options", "Config")


def text_of(value: Value) -> str:
    """`value` as Go's fmt prints it: true, map[a:b], [1 2]."""
    if value is None:
        return "<nil>"
    if isinstance(value, Nil):
        return value.shown
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        for key, names in _STRUCTS:
            if key in value and value.keys() <= set(names):
                return "{" + " ".join(_member(value, name) for name in names) + "}"
        # an empty value is the struct{} of a set: ExposedPorts, Volumes
        shown = (f"{key}:{text_of(item) if item != {} else '{}'}" for key, item in sorted(value.items()))
        return "map[" + " ".join(shown) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(text_of(item) for item in value) + "]"
    if isinstance(value, float):
        return _float(value)
    return str(value)


def _member(struct: dict[str, Value], name: str) -> str:
    value = struct.get(name)
    if value is None:
        return "map[]" if name in _EMPTY_MAPS else ""
    return text_of(value)


def _float(value: float) -> str:
    """As %v: the shortest text, with an exponent below 1e-4 and from 1e21 on."""
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    mantissa, exponent, power = text.partition("e")
    return f"{mantissa}e{power[0]}{power[1:].zfill(2)}" if exponent else text


def truth(value: Value) -> bool:
    """Whether Go's `if` takes it."""
    return bool(value)


def to_json(value: Value) -> str:
    """Compact JSON, as the function `json` gives it."""
    declared = getattr(value, "type", None) is not None
    if declared:  # Go sorts the fields of what `ls` shows, and escapes what means something in HTML
        value = dict(sorted(value.items()))
    text = go_json.compact(value)
    return go_json.without_html(text) if declared else text


def type_name(value: Value) -> str:
    """What Go calls a value's type."""
    if value is None or isinstance(value, Nil):
        return "nil"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float64"
    if isinstance(value, str):
        return "string"
    if isinstance(value, (list, tuple)):
        return "[]string" if all(isinstance(item, str) for item in value) else "[]interface {}"
    return "map[string]interface {}"


def formatted(form: str, *values: Value) -> str:
    """Go's Sprintf, for the verbs v d s q t x X o b c U e f g and %%."""
    out, rest, position = [], list(values), 0
    while position < len(form):
        start = form.find("%", position)
        if start < 0:
            out.append(form[position:])
            break
        out.append(form[position:start])
        end = start + 1
        while end < len(form) and form[end] in "+-# 0123456789.*":
            end += 1
        flags, verb = form[start + 1 : end], form[end : end + 1]
        position = end + 1
        while "*" in flags:
            flags = flags.replace("*", str(rest.pop(0)) if rest else "", 1)
        if verb == "%":
            out.append("%")
        elif not verb:
            out.append("%!(NOVERB)")
        elif not rest:
            out.append(f"%!{verb}(MISSING)")
        else:
            out.append(_one(flags, verb, rest.pop(0)))
    if rest:
        out.append("%!(EXTRA " + ", ".join(f"{type_name(value)}={text_of(value)}" for value in rest) + ")")
    return "".join(out)


def _one(flags: str, verb: str, value: Value) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if verb in "dxXoc" and isinstance(value, int) and not isinstance(value, bool):
        return f"%{flags}{verb}" % value
    if verb in "xX" and isinstance(value, str):
        digits = value.encode().hex()
        return f"%{flags}s" % (digits if verb == "x" else digits.upper())
    if verb == "b" and isinstance(value, int):
        return f"%{flags}s" % f"{value:b}"
    if verb in "eEfFgG" and isinstance(value, float):
        return f"%{flags}{verb}" % value
    if verb == "q" and isinstance(value, str):
        return f"%{flags}s" % go_json.compact(value)
    if verb == "T":
        return f"%{flags}s" % type_name(value)
    if verb == "t" and isinstance(value, bool):
        return f"%{flags}s" % text_of(value)
    if verb == "v" or (verb == "s" and not number and not isinstance(value, bool)):
        if verb == "v" and number:
            flags = flags.partition(".")[0]
        return f"%{flags.replace('#', '').replace('+', '')}s" % text_of(value)
    return f"%!{verb}({type_name(value)}={text_of(value)})"


def _index(value: Value, *keys: Value) -> Value:
    for key in keys:
        if isinstance(value, dict):
            if not isinstance(key, str):
                raise CallError(f"value has type {type_name(key)}; should be string")
            if key not in value:
                if any(isinstance(item, dict) for item in value.values()):
                    return Nil("<nil>")
                return "" if all(isinstance(item, str) for item in value.values()) else MISSING
            value = value[key]
        elif isinstance(value, (list, tuple)):
            if not isinstance(key, int):
                raise CallError(f"cannot index slice/array with type {type_name(key)}")
            if not 0 <= key < len(value):
                raise CallError(f"index out of range: {key}")
            value = value[key]
        elif isinstance(value, str):
            data = value.encode()
            if not isinstance(key, int) or not 0 <= key < len(data):
                raise CallError("reflect: string index out of range")
            value = data[key]
        elif isinstance(value, Nil) and value is not MISSING and value.shown in ("map[]", "[]"):
            if value.shown == "[]":
                raise CallError(f"index out of range: {key}")
            return ""
        elif value is None or isinstance(value, Nil):
            raise CallError("index of untyped nil")
        else:
            raise CallError(f"can't index item of type {type_name(value)}")
    return value


def _slice(value: Value, *bounds: Value) -> Value:
    if not isinstance(value, (str, list, tuple)):
        raise CallError(f"can't slice item of type {type_name(value)}")
    items: Value = value.encode() if isinstance(value, str) else value
    for bound in bounds:
        if not isinstance(bound, int) or not 0 <= bound <= len(items):
            raise CallError(f"index out of range: {text_of(bound)}")
    begin, end = [*bounds, *(0, len(items))[len(bounds) :]][:2]
    if begin > end:
        raise CallError(f"invalid slice index: {begin} > {end}")
    part = items[begin:end]
    return part.decode(errors="replace") if isinstance(part, bytes) else part


def _length(value: Value) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, (dict, list, tuple)) or (isinstance(value, Nil) and value is not MISSING):
        return len(value)
    if value is None or isinstance(value, Nil):
        raise CallError("len of nil pointer")
    raise CallError(f"len of type {type_name(value)}")


def _basic(value: Value) -> str:
    kind = type_name(value)
    if kind not in ("bool", "int", "float64", "string", "nil"):
        raise CallError("non-comparable type " + text_of(value) + ": " + kind)
    return kind


def _equal(value: Value, *others: Value) -> bool:
    if not others:
        raise CallError("missing argument for comparison")
    kind = _basic(value)
    for other in others:
        other_kind = _basic(other)
        if kind != other_kind and "nil" not in (kind, other_kind):
            raise CallError("incompatible types for comparison")
        if value == other:
            return True
    return False


def _less(one: Value, two: Value) -> bool:
    kinds = {_basic(one), _basic(two)}
    if kinds & {"bool", "nil"}:
        raise CallError("invalid type for comparison")
    if len(kinds) > 1:
        raise CallError("incompatible types for comparison")
    less: bool = one < two
    return less


def _print(*values: Value) -> str:
    """Sprint: a space between two operands when neither is a string."""
    out = ""
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            out += " "
        out += text_of(value)
    return out


def _html(*values: Value) -> str:
    text = _print(*values).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace('"', "&#34;").replace("'", "&#39;")


def _js(*values: Value) -> str:
    out = ""
    for letter in _print(*values):
        if letter in "\\'\"":
            out += "\\" + letter
        elif letter in "<>&=" or ord(letter) < 32:
            out += f"\\u{ord(letter):04X}"
        else:
            out += letter
    return out


def _url_query(*values: Value) -> str:
    from urllib.parse import quote_plus

    return quote_plus(_print(*values))


def _call(function: Value, *arguments: Value) -> Value:
    if not callable(function):
        raise CallError(f"non-function of type {type_name(function)}")
    return function(*arguments)


def _title(text: str) -> str:
    """Every word's first letter as a capital, the rest left as it is."""
    out, inside = "", False
    for letter in text:
        out += letter if inside else letter.upper()
        inside = letter.isalnum() or letter in "_'"
    return out


def _truncate(text: str, length: int) -> str:
    return text.encode()[:length].decode(errors="replace") if len(text.encode()) >= length else text


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _not(value: Value) -> bool:
    return not truth(value)


# name -> function, the Go types of its arguments (None: any number of any type)
FUNCTIONS: dict[str, tuple[Callable[..., Value], tuple[str, ...] | None]] = {
    "and": (lambda *values: next((value for value in values if not truth(value)), values[-1]), None),
    "or": (lambda *values: next((value for value in values if truth(value)), values[-1]), None),
    "not": (_not, ("any",)),
    "eq": (_equal, None),
    "ne": (lambda one, two: not _equal(one, two), ("any", "any")),
    "lt": (_less, ("any", "any")),
    "le": (lambda one, two: _less(one, two) or _equal(one, two), ("any", "any")),
    "gt": (lambda one, two: not (_less(one, two) or _equal(one, two)), ("any", "any")),
    "ge": (lambda one, two: not _less(one, two), ("any", "any")),
    "len": (_length, ("any",)),
    "index": (_index, None),
    "slice": (_slice, None),
    "print": (_print, None),
    "println": (lambda *values: " ".join(text_of(value) for value in values) + "\n", None),
    "printf": (formatted, None),
    "html": (_html, None),
    "js": (_js, None),
    "urlquery": (_url_query, None),
    "call": (_call, None),
    "json": (to_json, ("any",)),
    "join": (lambda values, separator: separator.join(values), ("[]string", "string")),
    "split": (lambda text, separator: text.split(separator) if separator else list(text), ("string", "string")),
    "lower": (str.lower, ("string",)),
    "upper": (str.upper, ("string",)),
    "title": (_title, ("string",)),
    "pad": (_pad, ("string", "int", "int")),
    "truncate": (_truncate, ("string", "int")),
}
# In the heading of a table these leave the column's name as it is.
KEPT_IN_HEADINGS = ("json", "split", "join", "title", "lower", "upper", "truncate")
