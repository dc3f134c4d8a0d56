"""What we use of `msgspec`, in plain Python: typed structs, read from JSON with every type checked, and written.

For `stand_ins` alone, see there. Where msgspec is strict about a key's case this is not: engines written in Go know no
case in JSON.
"""

# mypy: ignore-errors
# A stand-in is typed as what it stands in for, which is what the type checker sees where it is used.

from dockyard.oci import quick_json

# by their instances: the module `types` would have to be imported
GenericAlias, UnionType, ModuleType = type(list[int]), type(int | None), type(quick_json)
NODEFAULT = object()


class DecodeError(ValueError):
    """The JSON is not what it should be."""


class ValidationError(DecodeError):
    """A value has another type than its place wants; the message says where."""


class Meta:
    """Bounds of a number."""

    def __init__(self, *, ge: int | None = None, gt: int | None = None, le: int | None = None, lt: int | None = None):
        self.least = ge if ge is not None else None if gt is None else gt + 1
        self.most = le if le is not None else None if lt is None else lt - 1


class _Bounded:
    """Annotated[base, meta]."""

    def __init__(self, base: object, meta: object) -> None:
        self.base, self.meta = base, meta

    def __or__(self, other: object) -> "_Either":
        return _Either((self, other))

    def __call__(self) -> None:
        """typing wants types to be callable."""


class _Either:
    def __init__(self, kinds: tuple[object, ...]) -> None:
        self.__args__ = tuple(type(None) if kind is None else kind for kind in kinds)


class Annotated:
    """typing's."""

    def __class_getitem__(cls, parameters: tuple[object, ...]) -> _Bounded:
        return _Bounded(parameters[0], parameters[1])


class _Field:
    def __init__(self, default: object, factory: object, name: str | None) -> None:
        self.default, self.factory, self.name = default, factory, name


def field(*, default: object = NODEFAULT, default_factory: object = NODEFAULT, name: str | None = None) -> object:
    """A field that is called otherwise in JSON, or whose default is made anew for each struct."""
    return _Field(default, default_factory, name)


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.title() for word in others)


class Struct:
    """The base of structs."""

    __struct_fields__: tuple[str, ...] = ()
    # of each field: its type, its default, its name in JSON
    _kinds = _defaults = _names = {}  # noqa: RUF012 (never changed: each class gets its own)
    _rename = None
    _omit = False

    def __init_subclass__(cls, rename: object = None, omit_defaults: bool | None = None, **_: object) -> None:
        if rename is not None:
            cls._rename = rename  # "camel", or names by names
        if omit_defaults is not None:
            cls._omit = omit_defaults
        cls._kinds, cls._defaults, cls._names = dict(cls._kinds), dict(cls._defaults), dict(cls._names)
        for name, kind in vars(cls).get("__annotations__", {}).items():
            default = cls.__dict__.get(name, NODEFAULT)
            outside = None
            if isinstance(default, _Field):
                outside = default.name
            cls._kinds[name] = kind
            cls._defaults[name] = default
            renamed = _camel(name) if cls._rename == "camel" else (cls._rename or {}).get(name, name)
            cls._names[name] = outside or renamed
        cls.__struct_fields__ = tuple(cls._kinds)

    def __init__(self, *positional: object, **named: object) -> None:
        cls = type(self)
        values = self.__dict__
        for name, value in zip(cls.__struct_fields__, positional, strict=False):
            values[name] = value
        values.update(named)
        for name, default in cls._defaults.items():
            if name not in values:
                values[name] = _made(default, cls, name)
        if len(values) != len(cls._kinds):
            raise TypeError(f"{cls.__name__}() got an unexpected argument")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    __hash__ = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def _made(default: object, cls: type[Struct], name: str) -> object:
    if isinstance(default, _Field):
        if default.factory is not NODEFAULT:
            return default.factory()
        default = default.default
    if default is NODEFAULT:
        raise TypeError(f"Missing required argument {name!r} of {cls.__name__}")
    return default.copy() if isinstance(default, (list, dict)) else default


# ---- reading


def _wrong(kind: str, value: object, path: str) -> ValidationError:
    names = {str: "str", bool: "bool", int: "int", float: "float", dict: "object", list: "array", type(None): "null"}
    return ValidationError(
        f"Expected `{kind}`, got `{names.get(type(value), '?')}`" + (f" - at `{path}`" if path != "$" else "")
    )


def convert(value: object, kind: object, path: str = "$"):
    """`value`, as JSON has it, as a `kind`. Raises ValidationError."""
    if kind is str:
        if type(value) is str:
            return value
        raise _wrong("str", value, path)
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _struct(value, kind, path)
    if isinstance(kind, GenericAlias):
        return _container(value, kind, path)
    if isinstance(kind, (UnionType, _Either)):
        if value is None and type(None) in kind.__args__:
            return None
        return convert(value, next(one for one in kind.__args__ if one is not type(None)), path)
    if isinstance(kind, _Bounded):
        return _bounded(convert(value, kind.base, path), kind.meta, path)
    if kind is object:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        if kind is int and type(value) is float and value.is_integer():
            return int(value)
        raise _wrong(getattr(kind, "__name__", str(kind)), value, path)
    return value


def _bounded(value, meta, path: str):
    if isinstance(meta, Meta) and value is not None:
        where = f" - at `{path}`"
        if meta.least is not None and value < meta.least:
            raise ValidationError(f"Expected `int` >= {meta.least}{where}")
        if meta.most is not None and value > meta.most:
            raise ValidationError(f"Expected `int` <= {meta.most}{where}")
    return value


def _struct(value: object, cls: type[Struct], path: str) -> Struct:
    if type(value) is not dict:
        raise _wrong("object", value, path)
    table = cls.__dict__.get("_table")
    if table is None:
        table = {outside: (name, cls._kinds[name]) for name, outside in cls._names.items()}
        for outside, entry in list(table.items()):
            table.setdefault(outside.lower(), entry)
        cls._table = table
    made = cls.__new__(cls)
    values = made.__dict__
    for key, item in value.items():
        entry = table.get(key) or table.get(key.lower())
        if entry is not None:
            values[entry[0]] = convert(item, entry[1], f"{path}.{key}")
    if len(values) != len(cls._kinds):
        for name, default in cls._defaults.items():
            if name not in values:
                if default is NODEFAULT or (isinstance(default, _Field) and default.default is default.factory):
                    where = f" - at `{path}`" if path != "$" else ""
                    raise ValidationError(f"Object missing required field `{cls._names[name]}`{where}")
                values[name] = _made(default, cls, name)
    return made


def _container(value: object, kind: GenericAlias, path: str) -> object:
    if kind.__origin__ is list:
        if type(value) is not list:
            raise _wrong("array", value, path)
        inner = kind.__args__[0]
        return [convert(item, inner, f"{path}[{number}]") for number, item in enumerate(value)]
    if kind.__origin__ is dict:
        if type(value) is not dict:
            raise _wrong("object", value, path)
        inner = kind.__args__[1]
        return {key: convert(item, inner, f"{path}[...]") for key, item in value.items()}
    raise TypeError(f"no JSON type: {kind}")


class Decoder:
    """Reads JSON of one type."""

    def __init__(self, type: object = object) -> None:
        self._kind = type

    def decode(self, data: bytes | str) -> object:
        """Raises DecodeError."""
        return decode(data, type=self._kind)


def decode(data: bytes | str, *, type: object = object) -> object:
    """The value in `data`. Raises DecodeError."""
    try:
        value = quick_json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"JSON is malformed: {error}") from error
    return convert(value, type)


# ---- writing


def to_builtins(value: object) -> object:
    """`value` as JSON has it: structs as dicts, by their outside names."""
    if isinstance(value, Struct):
        cls = type(value)
        row = {}
        for name, outside in cls._names.items():
            item = value.__dict__[name]
            if cls._omit and _is_default(item, cls._defaults[name]):
                continue
            row[outside] = to_builtins(item)
        return row
    if isinstance(value, dict):
        return {key: to_builtins(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_builtins(item) for item in value]
    return value


def _is_default(value: object, default: object) -> bool:
    if isinstance(default, _Field):
        if default.factory is list or default.factory is dict:
            return value in ([], {})
        default = default.default
    return type(value) is type(default) and value == default


class Encoder:
    """Writes JSON."""

    def encode(self, value: object) -> bytes:
        """`value` as JSON."""
        return encode(value)


def encode(value: object) -> bytes:
    """`value` as JSON."""
    return quick_json.dumps(to_builtins(value)).encode()


def replace(value, /, **changes: object):
    """A copy with other values for some fields."""
    return type(value)(**{**vars(value), **changes})


def _module(name: str, **contents: object) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(contents)
    return module


msgspec = _module(
    "msgspec",
    Struct=Struct,
    Meta=Meta,
    field=field,
    convert=lambda value, kind, **_: convert(value, kind),
    to_builtins=lambda value, **_: to_builtins(value),
    DecodeError=DecodeError,
    ValidationError=ValidationError,
    json=_module("msgspec.json", Decoder=Decoder, Encoder=Encoder, decode=decode, encode=encode),
    structs=_module("msgspec.structs", replace=replace),
)
