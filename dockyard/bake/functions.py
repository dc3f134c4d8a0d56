"""The functions that bake files may call: go-cty's standard library and what buildx adds (bake/hclparser/stdlib.go)."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import posixpath
import re
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from typing import Any
from urllib.parse import quote_plus

from dockyard.bake import tree
from dockyard.bake.formats import csv_rows, format_date, format_text, json_value, time_add
from dockyard.bake.networks import cidr_host, cidr_netmask, cidr_subnet, cidr_subnets
from dockyard.bake.types import convert, type_of
from dockyard.bake.values import Value, equal, normal, to_bool, to_json, to_number, to_string

Function = Callable[..., Value]
MOST_ELEMENTS = 1024 * 64  # of a list that a function makes


def _s(value: Value) -> str:
    if value is None:
        raise ValueError("argument must not be null")
    return to_string(value)


def _n(value: Value) -> Any:
    if value is None:
        raise ValueError("argument must not be null")
    return to_number(value)


def _i(value: Value) -> int:
    found = _n(value)
    if not isinstance(found, int):
        raise ValueError("a whole number is required")
    return found


def _l(value: Value) -> list[Value]:
    if not isinstance(value, list):
        raise ValueError("a list is required")
    return value


def _d(value: Value) -> dict[str, Value]:
    if not isinstance(value, dict):
        raise ValueError("an object is required")
    return value


def _distinct(values: Sequence[Value]) -> list[Value]:
    found: list[Value] = []
    for value in values:
        if not any(equal(value, other) for other in found):
            found.append(value)
    return found


def _set(values: Sequence[Value]) -> list[Value]:
    """A set, in the order in which sets are gone through."""
    return sorted(_distinct(values), key=lambda one: (str(type(one)), one if isinstance(one, str | int) else str(one)))


def _in(value: Value, values: Sequence[Value]) -> bool:
    return any(equal(value, other) for other in values)


def _flattened(values: Value) -> list[Value]:
    return [inner for one in _l(values) for inner in (_flattened(one) if isinstance(one, list) else [one])]


def _range(*bounds: Value) -> list[Value]:
    numbers = [_n(one) for one in bounds]
    start, end, step = (0, numbers[0], 1) if len(numbers) == 1 else (*numbers, 1)[:3]
    if len(numbers) < 3 and end < start:
        step = -1
    if step == 0:
        raise ValueError("step must not be zero")
    count = max(math.ceil((Decimal(end) - Decimal(start)) / Decimal(step)), 0)
    if count > 1024:
        raise ValueError("more than 1024 values were generated")
    return [normal(start + step * number) for number in range(count)]


def _slice(values: Value, start: Value, end: Value) -> list[Value]:
    found, first, last = _l(values), _i(start), _i(end)
    if not 0 <= first <= last <= len(found):
        raise ValueError("the start and end of a slice must be within the list")
    return found[first:last]


def _substr(text: Value, offset: Value, length: Value) -> str:
    found, start, size = _s(text), _i(offset), _i(length)
    start = max(start + len(found), 0) if start < 0 else start
    return found[start:] if size < 0 else found[start : start + size]


def _element(values: Value, index: Value) -> Value:
    found = _l(values)
    if not found:
        raise ValueError("cannot use element function with an empty list")
    return found[_i(index) % len(found)]


def _index(values: Value, key: Value) -> Value:
    if isinstance(values, dict):
        return values[_s(key)] if _s(key) in values else _absent()
    found = _l(values)
    return found[_i(key)] if 0 <= _i(key) < len(found) else _absent()


def _absent() -> Value:
    raise ValueError("the given key does not identify an element in this collection")


def _index_of(values: Value, value: Value) -> int:
    if not _l(values):
        raise ValueError("cannot search an empty list")
    for number, one in enumerate(values):
        if equal(one, value):
            return number
    raise ValueError("item not found")


def _has_index(values: Value, key: Value) -> bool:
    if isinstance(values, dict):
        return isinstance(key, str) and key in values
    return isinstance(key, int) and not isinstance(key, bool) and 0 <= key < len(_l(values))


def _coalesce(*values: Value) -> Value:
    for value in values:
        if value is not None:
            return value
    raise ValueError("no non-null arguments")


def _coalesce_list(*values: Value) -> Value:
    for value in values:
        if value:
            return value
    raise ValueError("no non-null arguments")


def _merge(*values: Value) -> dict[str, Value]:
    return {name: one for value in values if value is not None for name, one in _d(value).items()}


def _lookup(values: Value, key: Value, default: Value = None) -> Value:
    return _d(values).get(_s(key), default)


def _chunks(values: Value, size: Value) -> list[Value]:
    step = _i(size)
    if step < 0:
        raise ValueError("the size argument must be positive")
    found = _l(values)
    return [found] if not step else [found[start : start + step] for start in range(0, len(found), step)]


def _join(separator: Value, *lists: Value) -> str:
    return _s(separator).join(_s(one) for values in lists for one in _l(values))


def _split(separator: Value, text: Value) -> list[Value]:
    found = _s(text)
    return list(found.split(_s(separator))) if _s(separator) else list(found)


def _sort(values: Value) -> list[Value]:
    return sorted(map(_s, _l(values)))


def _zipmap(keys: Value, values: Value) -> dict[str, Value]:
    if len(_l(keys)) != len(_l(values)):
        raise ValueError("number of keys does not match number of values")
    return dict(zip(map(_s, keys), values, strict=True))


def _product(*lists: Value) -> list[Value]:
    if math.prod(len(_l(one)) for one in lists) > MOST_ELEMENTS:
        raise ValueError("the product has too many elements")
    return [list(one) for one in product(*lists)]


def _format_list(pattern: Value, *lists: Value) -> list[Value]:
    sizes = {len(one) for one in lists if isinstance(one, list)}
    if len(sizes) > 1:
        raise ValueError("lists of different lengths")
    count = sizes.pop() if sizes else 1
    return [
        format_text(_s(pattern), [one[number] if isinstance(one, list) else one for one in lists])
        for number in range(count)
    ]


def _indent(spaces: Value, text: Value) -> str:
    return _s(text).replace("\n", "\n" + " " * _i(spaces))


def _title(text: Value) -> str:
    return re.sub(r"(^|[^\w'])(\w)", lambda found: found[1] + found[2].upper(), _s(text))


def _python_pattern(pattern: Value) -> re.Pattern[str]:
    """A pattern of Go's regexp, which is nearly Python's."""
    text = re.sub(r"\\z", r"\\Z", _s(pattern)).replace("(?P<", "(?P<").replace("[[:alnum:]]", "[0-9A-Za-z]")
    for name, letters in (("alpha", "A-Za-z"), ("digit", "0-9"), ("space", r"\s"), ("upper", "A-Z"), ("lower", "a-z")):
        text = text.replace(f"[:{name}:]", letters)
    return re.compile(text)


def _found(match: re.Match[str]) -> Value:
    if match.re.groupindex:
        return dict(match.groupdict())
    return list(match.groups()) if match.re.groups else match[0]


def _regex(pattern: Value, text: Value) -> Value:
    match = _python_pattern(pattern).search(_s(text))
    if match is None:
        raise ValueError("pattern did not match any part of the given string")
    return _found(match)


def _regex_all(pattern: Value, text: Value) -> list[Value]:
    return [_found(match) for match in _python_pattern(pattern).finditer(_s(text))]


def _regex_replace(text: Value, pattern: Value, replacement: Value) -> str:
    compiled, given = _python_pattern(pattern), _s(replacement)

    def replaced(match: re.Match[str]) -> str:
        def group(found: re.Match[str]) -> str:
            name = found[1] or found[2]
            if found[0] == "$$":
                return "$"
            try:
                return match[int(name) if name.isdigit() else name] or ""
            except IndexError:
                return ""

        return re.sub(r"\$\$|\$\{(\w+)\}|\$(\w+)", group, given)

    return compiled.sub(replaced, _s(text))


def _parse_int(text: Value, base: Value) -> int:
    if not 2 <= _i(base) <= 62:
        raise ValueError("base must be a whole number between 2 and 62 inclusive")
    try:
        return int(_s(text), _i(base))
    except ValueError:
        raise ValueError(f'cannot parse "{_s(text)}" as a base {_i(base)} integer') from None


def _power(number: Value, exponent: Value) -> Value:
    if abs(_n(exponent)) > 4096:
        raise ValueError("the exponent is too large")
    return normal(Decimal(_n(number)) ** Decimal(_n(exponent)))


def _modulo(left: Value, right: Value) -> Value:
    return normal(Decimal(_n(left)) % Decimal(_n(right)))


def _logarithm(number: Value, base: Value) -> Value:
    return normal(Decimal(repr(math.log(_n(number)) / math.log(_n(base)))))


def _base64_decode(text: Value) -> str:
    try:
        return base64.b64decode(_s(text), validate=True).decode()
    except ValueError:
        raise ValueError("failed to decode base64 data") from None


def _bcrypt(text: Value, cost: Value = 10) -> str:
    import bcrypt

    return bcrypt.hashpw(_s(text).encode(), bcrypt.gensalt(_i(cost))).decode()


def _rsa_decrypt(text: Value, key: Value) -> str:
    from cryptography.hazmat.primitives.asymmetric import padding
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = load_pem_private_key(_s(key).encode(), None)
    if not isinstance(private, RSAPrivateKey):
        raise ValueError("no RSA key")
    return private.decrypt(base64.b64decode(_s(text)), padding.PKCS1v15()).decode()


def _hash(name: str) -> Function:
    return lambda text: hashlib.new(name, _s(text).encode()).hexdigest()


def _uuid5(namespace: Value, name: Value) -> str:
    known = {
        "dns": uuid.NAMESPACE_DNS,
        "url": uuid.NAMESPACE_URL,
        "oid": uuid.NAMESPACE_OID,
        "x500": uuid.NAMESPACE_X500,
    }
    found = known.get(_s(namespace))
    return str(uuid.uuid5(found if found is not None else uuid.UUID(_s(namespace)), _s(name)))


def _convert(value: Value, kind: tree.Expression) -> Value:
    return convert(value, type_of(kind))


def _basename(path: Value) -> str:
    found = _s(path).rstrip("/")
    return posixpath.basename(found) if found else ("/" if _s(path) else ".")


def _dirname(path: Value) -> str:
    return posixpath.normpath(posixpath.dirname(_s(path)) or ".")


def _symmetric(left: Value, right: Value) -> list[Value]:
    return _set([one for one in left if not _in(one, right)] + [one for one in right if not _in(one, left)])


def _intersection(first: Value, *others: Value) -> list[Value]:
    return _set([one for one in _l(first) if all(_in(one, other) for other in others)])


def _trim(text: Value, letters: Value) -> str:
    return _s(text).strip(_s(letters))


FUNCTIONS: dict[str, Function] = {
    "absolute": lambda number: abs(_n(number)),
    "add": lambda left, right: normal(_n(left) + _n(right)),
    "and": lambda left, right: to_bool(left) and to_bool(right),
    "base64decode": _base64_decode,
    "base64encode": lambda text: base64.b64encode(_s(text).encode()).decode(),
    "basename": _basename,
    "bcrypt": _bcrypt,
    "byteslen": lambda text: len(_s(text).encode()),
    "bytesslice": lambda text, start, end: _s(text).encode()[_i(start) : _i(end)].decode(errors="replace"),
    "ceil": lambda number: math.ceil(_n(number)),
    "chomp": lambda text: _s(text).rstrip("\r\n"),
    "chunklist": _chunks,
    "cidrhost": lambda prefix, number: cidr_host(_s(prefix), _i(number)),
    "cidrnetmask": lambda prefix: cidr_netmask(_s(prefix)),
    "cidrsubnet": lambda prefix, bits, number: cidr_subnet(_s(prefix), _i(bits), _i(number)),
    "cidrsubnets": lambda prefix, *bits: cidr_subnets(_s(prefix), [_i(one) for one in bits]),
    "coalesce": _coalesce,
    "coalescelist": _coalesce_list,
    "compact": lambda values: [one for one in _l(values) if one not in (None, "")],
    "concat": lambda *lists: [one for values in lists for one in _l(values)],
    "contains": lambda values, value: _in(value, _l(values)),
    "convert": _convert,
    "csvdecode": lambda text: csv_rows(_s(text)),
    "dirname": _dirname,
    "distinct": lambda values: _distinct(_l(values)),
    "divide": lambda left, right: normal(Decimal(_n(left)) / Decimal(_n(right))),
    "element": _element,
    "equal": equal,
    "flatten": _flattened,
    "floor": lambda number: math.floor(_n(number)),
    "format": lambda pattern, *values: format_text(_s(pattern), values),
    "formatdate": lambda pattern, moment: format_date(_s(pattern), _s(moment)),
    "formatlist": _format_list,
    "greaterthan": lambda left, right: _n(left) > _n(right),
    "greaterthanorequalto": lambda left, right: _n(left) >= _n(right),
    "hasindex": _has_index,
    "homedir": lambda: os.path.expanduser("~"),
    "indent": _indent,
    "index": _index,
    "indexof": _index_of,
    "int": lambda number: math.trunc(_n(number)),
    "join": _join,
    "jsondecode": lambda text: json_value(_s(text)),
    "jsonencode": to_json,
    "keys": lambda values: sorted(_d(values)),
    "length": lambda values: len(values) if isinstance(values, list | dict) else len(_l(values)),
    "lessthan": lambda left, right: _n(left) < _n(right),
    "lessthanorequalto": lambda left, right: _n(left) <= _n(right),
    "log": _logarithm,
    "lookup": _lookup,
    "lower": lambda text: _s(text).lower(),
    "max": lambda *numbers: max(map(_n, numbers)),
    "md5": _hash("md5"),
    "merge": _merge,
    "min": lambda *numbers: min(map(_n, numbers)),
    "modulo": _modulo,
    "multiply": lambda left, right: normal(_n(left) * _n(right)),
    "negate": lambda number: -_n(number),
    "not": lambda value: not to_bool(value),
    "notequal": lambda left, right: not equal(left, right),
    "or": lambda left, right: to_bool(left) or to_bool(right),
    "parseint": _parse_int,
    "pow": _power,
    "range": _range,
    "regex": _regex,
    "regex_replace": _regex_replace,
    "regexall": _regex_all,
    "replace": lambda text, old, new: _s(text).replace(_s(old), _s(new)),
    "reverse": lambda text: _s(text)[::-1],
    "reverselist": lambda values: _l(values)[::-1],
    "rsadecrypt": _rsa_decrypt,
    "sanitize": lambda name: re.sub(r"[^a-zA-Z0-9_-]", "_", _s(name)),
    "sethaselement": lambda values, value: _in(value, _l(values)),
    "setintersection": _intersection,
    "setproduct": _product,
    "setsubtract": lambda left, right: _set([one for one in _l(left) if not _in(one, _l(right))]),
    "setsymmetricdifference": _symmetric,
    "setunion": lambda *sets: _set([one for values in sets for one in _l(values)]),
    "sha1": _hash("sha1"),
    "sha256": _hash("sha256"),
    "sha512": _hash("sha512"),
    "signum": lambda number: (_n(number) > 0) - (_n(number) < 0),
    "slice": _slice,
    "sort": _sort,
    "split": _split,
    "strlen": lambda text: len(_s(text)),
    "substr": _substr,
    "subtract": lambda left, right: normal(_n(left) - _n(right)),
    "timeadd": lambda moment, duration: time_add(_s(moment), _s(duration)),
    "timestamp": lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    "title": _title,
    "trim": _trim,
    "trimprefix": lambda text, prefix: _s(text).removeprefix(_s(prefix)),
    "trimspace": lambda text: _s(text).strip(),
    "trimsuffix": lambda text, suffix: _s(text).removesuffix(_s(suffix)),
    "upper": lambda text: _s(text).upper(),
    "urlencode": lambda text: quote_plus(_s(text)),
    "uuidv4": lambda: str(uuid.uuid4()),
    "uuidv5": _uuid5,
    "values": lambda values: [values[name] for name in sorted(_d(values))],
    "zipmap": _zipmap,
}
