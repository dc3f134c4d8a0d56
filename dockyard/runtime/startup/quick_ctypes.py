"""What our modules use of `ctypes`, right from the C module below it: to import the whole takes some milliseconds more.

A name that is missing here comes from the real module (stand_ins.py), whose types are others.
"""

# mypy: ignore-errors
# A stand-in is typed as what it stands in for, which is what the type checker sees where it is used.

import _ctypes
from _ctypes import Structure, addressof, byref, get_errno, sizeof

__all__ = ["Structure", "addressof", "byref", "get_errno", "sizeof"]


def _simple(code: str) -> type:
    return type(_ctypes._SimpleCData)("simple", (_ctypes._SimpleCData,), {"_type_": code})


# the codes are those of the C types, as in `struct`
c_char, c_char_p, c_void_p = map(_simple, "czP")
c_ushort, c_int, c_uint, c_long, c_ulong, c_longlong, c_ulonglong = map(_simple, "HiIlLqQ")
c_uint32, c_int64, c_uint64, c_size_t = c_uint, c_longlong, c_ulonglong, c_ulong


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = c_int


class _LockedFunction(_ctypes.CFuncPtr):
    _flags_ = _Function._flags_ | _ctypes.FUNCFLAG_PYTHONAPI
    _restype_ = c_int


class CDLL:
    """A library's functions, which keep errno."""

    _kind = _Function

    def __init__(self, name: str | None, use_errno: bool = True) -> None:
        self._handle = _ctypes.dlopen(name, 0)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        function = self._kind((name, self))
        setattr(self, name, function)
        return function


class PyDLL(CDLL):
    """One whose functions are called with the interpreter's lock held."""

    _kind = _LockedFunction


pythonapi = PyDLL(None)


def create_string_buffer(init: bytes, size: int | None = None) -> object:
    """An array of c_char that begins with `init`; without `size` it has a zero byte after that."""
    size = len(init) + 1 if size is None else size
    buffer = (c_char * size)()
    buffer.raw = init.ljust(size, b"\0")
    return buffer
