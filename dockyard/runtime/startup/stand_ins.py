"""Small stand-ins for library modules that take longer to import than a whole command of the runtime should take.

`msgspec` alone imports for 30 ms, `dataclasses` for 15, when starting and stopping a container takes runc 40 in three
processes. The stand-ins do what our modules ask of the real ones, and nothing else: a name that they lack comes from
the real module, which is imported then. Only the command line installs them, in a process that is over soon; the
daemon and its zygote, which import once and live long, have the real ones.
"""

# mypy: ignore-errors
# A stand-in is typed as what it stands in for, which is what the type checker sees where it is used.

import _collections_abc
import _signal
import _socket
import os
import sys

from dockyard.oci import quick_json
from dockyard.runtime.startup import quick_struct

ModuleType = type(sys)
MISSING = object()


def install() -> None:
    """Put the stand-ins where `import` looks first."""
    for name, contents in (
        ("collections.abc", vars(_collections_abc)),
        ("contextlib", {"suppress": suppress, "ExitStack": ExitStack, "contextmanager": contextmanager}),
        ("dataclasses", {"dataclass": dataclass, "field": field, "replace": replace}),
        ("functools", {"lru_cache": lru_cache, "cache": cache}),
        ("msgspec", vars(quick_struct.msgspec)),
        ("platform", {"machine": lambda: os.uname().machine}),
        ("shutil", {"rmtree": rmtree}),
        ("signal", {**vars(_signal)}),
        ("socket", {**vars(_socket), "socket": Socket, "socketpair": socketpair, "send_fds": send_fds}),
        (
            "typing",
            {
                **dict.fromkeys(("Any", "Protocol", "Self"), object),
                "TYPE_CHECKING": False,
                "Annotated": quick_struct.Annotated,
            },
        ),
    ):
        if name not in sys.modules:
            sys.modules[name] = _StandIn(name, contents)
    if "ctypes" not in sys.modules:
        sys.modules["ctypes"] = _Ctypes("ctypes", {})


class _StandIn(ModuleType):
    def __init__(self, name: str, contents: dict[str, object]) -> None:
        super().__init__(name)
        self.__dict__.update({key: value for key, value in contents.items() if not key.startswith("__")})

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        own = self.__name__
        if sys.modules.get(own) is self:
            del sys.modules[own]  # from now on the real one is what `import` finds
        __import__(own)
        return getattr(sys.modules[own], name)


class _Ctypes(_StandIn):
    """That stands in when it is used: commands that only read need no system calls of their own."""

    def __getattr__(self, name: str) -> object:
        from dockyard.runtime.startup import quick_ctypes

        if hasattr(quick_ctypes, name) and not name.startswith("_"):
            self.__dict__[name] = getattr(quick_ctypes, name)
            return self.__dict__[name]
        return super().__getattr__(name)


class suppress:  # noqa: N801 (the library's name)
    """contextlib's."""

    def __init__(self, *kinds: type[BaseException]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self._kinds)


class ExitStack:
    """contextlib's, for callbacks and context managers that let exceptions pass."""

    def __init__(self) -> None:
        self._undo: list[tuple[object, tuple[object, ...], dict[str, object]]] = []

    def __enter__(self) -> "ExitStack":
        return self

    def __exit__(self, *failure: object) -> None:
        while self._undo:
            function, positional, named = self._undo.pop()
            function(*positional, **named)

    def callback(self, function: object, /, *positional: object, **named: object) -> object:
        self._undo.append((function, positional, named))
        return function

    def enter_context(self, manager):
        entered = type(manager).__enter__(manager)
        self._undo.append((lambda: type(manager).__exit__(manager, None, None, None), (), {}))
        return entered

    def pop_all(self) -> "ExitStack":
        other = ExitStack()
        other._undo, self._undo = self._undo, []
        return other

    def close(self) -> None:
        self.__exit__(None, None, None)


def contextmanager(function):
    """contextlib's, for generators that yield once."""

    def make(*positional, **named):
        return _Generated(function(*positional, **named))

    return make


class _Generated:
    def __init__(self, generator) -> None:
        self._generator = generator

    def __enter__(self) -> object:
        return next(self._generator)

    def __exit__(self, kind: object, failure: BaseException | None, trace: object) -> bool:
        try:
            if failure is None:
                next(self._generator)
            else:
                self._generator.throw(failure)
        except StopIteration:
            return failure is not None
        except BaseException as other:
            if other is failure:
                return False
            raise
        raise RuntimeError("generator didn't stop")


def lru_cache(maxsize: object = 128, typed: bool = False):
    """functools's, without a limit: a command does not live long."""
    if callable(maxsize):
        return cache(maxsize)
    return cache


def cache(function):
    """functools's."""
    known: dict[object, object] = {}

    def cached(*arguments):
        if arguments not in known:
            known[arguments] = function(*arguments)
        return known[arguments]

    cached.cache_clear = known.clear
    return cached


def field(*, default: object = MISSING, default_factory: object = MISSING, **_: object) -> object:
    """dataclasses's."""
    return _Field(default, default_factory)


class _Field:
    def __init__(self, default: object, factory: object) -> None:
        self.default, self.factory = default, factory


def dataclass(cls=None, /, **_: object):
    """dataclasses's: __init__, __eq__ and __repr__; frozen ones are not kept from changing."""
    if cls is None:
        return dataclass
    names: list[str] = []
    defaults: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        for name in vars(base).get("__annotations__", ()):
            if name not in names:
                names.append(name)
    for name in names:
        if hasattr(cls, name):
            defaults[name] = getattr(cls, name)

    def __init__(self, *positional: object, **named: object) -> None:  # noqa: N807
        given = dict(zip(names, positional, strict=False))
        given.update(named)
        if len(given) != len(positional) + len(named) or not given.keys() <= set(names):
            raise TypeError(f"{cls.__name__}() got unexpected or repeated arguments")
        for name in names:
            if name not in given:
                value = defaults.get(name, MISSING)
                if isinstance(value, _Field):
                    value = value.factory() if value.factory is not MISSING else value.default
                if value is MISSING:
                    raise TypeError(f"{cls.__name__}() misses an argument: {name!r}")
                given[name] = value
            self.__dict__[name] = given[name]
        if hasattr(cls, "__post_init__"):
            self.__post_init__()

    def __eq__(self, other: object) -> bool:  # noqa: N807
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:  # noqa: N807
        return hash(tuple(vars(self).values()))

    cls.__init__, cls.__eq__, cls.__hash__ = __init__, __eq__, __hash__
    return cls


def replace(value, /, **changes: object):
    """dataclasses's."""
    return type(value)(**{**vars(value), **changes})


class Socket(_socket.socket):
    """socket's, as far as it is not C already."""

    def __enter__(self) -> "Socket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def accept(self) -> tuple["Socket", object]:
        fd, address = self._accept()
        return Socket(self.family, self.type, self.proto, fileno=fd), address


def socketpair(family: int = _socket.AF_UNIX, kind: int = _socket.SOCK_STREAM, protocol: int = 0):
    """socket's."""
    first, second = _socket.socketpair(family, kind, protocol)
    return (
        Socket(family, kind, protocol, fileno=first.detach()),
        Socket(family, kind, protocol, fileno=second.detach()),
    )


def send_fds(peer: _socket.socket, buffers: list[bytes], fds: list[int]) -> int:
    """socket's."""
    import array

    return peer.sendmsg(buffers, [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))])


def rmtree(path: str, ignore_errors: bool = False) -> None:
    """shutil's, following no symlinks."""
    try:
        _rmtree(path)
    except OSError:
        if not ignore_errors:
            raise


def _rmtree(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in os.listdir(directory):
            try:
                os.unlink(name, dir_fd=directory)
            except IsADirectoryError:
                _rmtree(f"{path}/{name}")
    finally:
        os.close(directory)
    os.rmdir(path)


__all__ = ["install", "quick_json"]
