"""A shell in the container of a step that has failed, on our terminal: the engine asks for it through the session."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from dockyard.buildkit import wire_pb2 as wire
from dockyard.buildkit.debugging import ABOUT, BYTES, SHELL, SIZE
from dockyard.grpc.calls import Method
from dockyard.grpc.connection import Stream, StreamReset

CHUNK = 1 << 12


class Pausing(Protocol):
    """A display that can leave the terminal to others."""

    def pause(self) -> None:
        """Draw nothing until `resume`."""

    def resume(self) -> None:
        """Go on."""


class Debugger:
    """Gives the terminal to one shell after the other."""

    def __init__(self, display: object) -> None:
        """`display`: what shows the build; it is paused if it can be."""
        self._display = display
        self._turn = asyncio.Lock()

    @property
    def methods(self) -> dict[str, Method]:
        """What the session serves."""
        return {SHELL: self._serve}

    async def _serve(self, stream: Stream) -> None:
        async with self._turn:
            pausing = hasattr(self._display, "pause")
            if pausing:
                self._display.pause()  # type: ignore[attr-defined]  # as seen
            try:
                with _raw_terminal():
                    await _converse(stream)
            finally:
                if pausing:
                    self._display.resume()  # type: ignore[attr-defined]  # as seen


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Keys go to the shell as they are pressed."""
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


async def _converse(stream: Stream) -> None:
    loop = asyncio.get_running_loop()
    typed: asyncio.Queue[bytes | None] = asyncio.Queue()  # None: the terminal's size has changed

    def key() -> None:
        with suppress(OSError):
            typed.put_nowait(os.read(0, CHUNK))

    async def send() -> None:
        while True:
            keys = await typed.get()
            packet = _size() if keys is None else wire.Packet(type=BYTES, data=keys)
            await stream.send(packet.SerializeToString())

    typed.put_nowait(None)
    loop.add_reader(0, key)
    loop.add_signal_handler(signal.SIGWINCH, typed.put_nowait, None)
    sending = asyncio.ensure_future(send())
    try:
        while (message := await stream.receive()) is not None:
            packet = wire.Packet.FromString(message)
            if packet.type in (ABOUT, BYTES):
                data = packet.data if packet.type == BYTES else packet.data.replace(b"\n", b"\r\n")
                sys.stderr.buffer.write(data)
                sys.stderr.flush()
    except StreamReset:
        pass
    finally:
        loop.remove_reader(0)
        loop.remove_signal_handler(signal.SIGWINCH)
        sending.cancel()


def _size() -> wire.Packet:
    try:
        found = os.get_terminal_size(0)
    except OSError:
        return wire.Packet(type=SIZE, id=(24 << 16) + 80)
    return wire.Packet(type=SIZE, id=(found.lines << 16) + found.columns)
