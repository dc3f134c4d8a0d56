"""Packet filter transactions through libnftables, in process: no `nft` is started, each call is atomic.

The commands are nft's own language (nft(8)), so what we send can be read, and typed by hand.
"""

import ctypes
import os
import socket
import threading

from dockyard.linux import recorder

_NAMES = ("libnftables.so.1", "libnftables.so")
NFT_CTX_OUTPUT_JSON = 1 << 4


class NftablesError(OSError):
    """A transaction was refused as a whole; nothing of it took effect."""


class NftablesMissing(NftablesError):
    """libnftables is not installed."""


class Nftables:
    """A handle on the packet filter of the network namespace in which it is made. Thread-safe."""

    def __init__(self, lasting: bool = False) -> None:
        """`lasting`: the handle outlives a moment, and no child process may inherit it."""
        self._library = _load()
        self._lock = threading.Lock()
        self._context: int | None = self._library.nft_ctx_new(0)
        if not self._context:
            raise NftablesError("cannot set up libnftables")
        if lasting:
            _keep_from_children()
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        """Carry out `commands` as one transaction; returns what they print. Raises NftablesError."""
        if recorder.sink is not None:
            recorder.sink("nft", (commands,))
        with self._lock:
            if self._context is None:
                raise NftablesError("closed")
            code = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
            output = self._library.nft_ctx_get_output_buffer(self._context) or b""
            errors = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if code != 0:
            raise NftablesError(errors.decode(errors="replace").strip() or "nftables refused the transaction")
        return bytes(output).decode(errors="replace")

    def close(self) -> None:
        """Free the handle; the rules stay."""
        with self._lock:
            if self._context is not None:
                self._library.nft_ctx_free(self._context)
                self._context = None


def _keep_from_children() -> None:
    """Mark our netlink sockets close-on-exec: libnftables opens its own without."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as copy:
                if copy.family == socket.AF_NETLINK:
                    os.set_inheritable(int(name), False)
        except OSError:
            continue  # closed meanwhile


def _load() -> ctypes.CDLL:
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        pointer = ctypes.c_void_p
        library.nft_ctx_new.restype = pointer
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_ctx_free.argtypes = [pointer]
        for function in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(library, function).argtypes = [pointer]
        for function in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(library, function).argtypes = [pointer]
            getattr(library, function).restype = ctypes.c_char_p
        library.nft_run_cmd_from_buffer.argtypes = [pointer, ctypes.c_char_p]
        return library
    raise NftablesMissing("libnftables.so.1 is not installed (Debian: apt install libnftables1)")
