"""Packages that executables are made of and tell of: Go's build information, Rust's list of cargo-auditable."""

from __future__ import annotations

import re
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from mmap import ACCESS_READ, mmap

import msgspec

from dockyard.builder.attestations.sbom.elf import MAGIC, Elf
from dockyard.builder.attestations.sbom.package import Package
from dockyard.builder.trees import File

LARGEST_BINARY = 512 << 20  # bytes
LARGEST_LIST = 16 << 20  # bytes of what one tells
_GO = b"\xff Go buildinf:"
_RUST = b".dep-v0"
_DEVELOPED = "(devel)"


def binary_packages(place: str, file: File) -> list[Package]:
    """What an executable is made of, if it tells."""
    if not file.entry.mode & 0o111 or not 1024 < file.entry.size <= LARGEST_BINARY:
        return []
    pieces = iter(file.read())
    first = next(pieces, b"")
    if not first.startswith(MAGIC):
        return []
    with tempfile.TemporaryFile() as spool:
        spool.write(first)
        for piece in pieces:
            spool.write(piece)
        spool.flush()
        with closing(mmap(spool.fileno(), 0, access=ACCESS_READ)) as data:
            try:
                elf = Elf(data)
                return [*_go_packages(place, elf), *_rust_packages(place, elf)]
            except (ValueError, struct.error, IndexError):
                return []


# -- Go (debug/buildinfo)


def _go_packages(place: str, elf: Elf) -> Iterator[Package]:
    version, text = _build_information(elf)
    if not version:
        return
    path, modules, settings = "", list[list[str]](), dict[str, str]()
    for line in text.split("\n"):
        kind, *fields = line.split("\t")
        if kind == "path" and fields:
            path = fields[0]
        elif kind in ("mod", "dep") and fields:
            modules.append([kind, fields[0], fields[1] if len(fields) > 1 else ""])
        elif kind == "=>" and modules and len(fields) > 1 and not fields[0].startswith((".", "/")):
            modules[-1][1:] = fields[:2]
        elif kind == "build" and fields:
            name, _, value = fields[0].partition("=")
            settings[name] = value
    if path and not any(kind == "mod" for kind, _, _ in modules):
        modules.append(["mod", path, _DEVELOPED])
    for kind, name, said in modules:
        space, _, last = name.rpartition("/")
        known = _of_sources(settings) if kind == "mod" and said == _DEVELOPED else said
        yield Package("golang", last, known or said, place, space)
    yield Package("golang", "stdlib", version, place, license="BSD-3-Clause")


def _of_sources(settings: dict[str, str]) -> str:
    """The version of sources that have none: a pseudo-version of the commit (go.dev/ref/mod)."""
    commit, moment = settings.get("vcs.revision", ""), settings.get("vcs.time", "")
    if not commit or not moment:
        return commit
    return f"v0.0.0-{re.sub('[^0-9]', '', moment)[:14]}-{commit[:12]}"


def _build_information(elf: Elf) -> tuple[str, str]:
    """Go's version and its list of modules; nothing when a file has none."""
    data, position = elf.data, -1
    while (position := data.find(_GO, position + 1)) >= 0:
        if position % 16:
            continue
        try:
            size, flags = data[position + 14], data[position + 15]
            if flags & 2:
                version, end = _counted(data, position + 32)
                modules, _ = _counted(data, end)
            else:  # before Go 1.18
                version, modules = (_pointed(elf, position + 16 + size * index, size, flags) for index in (0, 1))
        except (ValueError, struct.error, IndexError):
            continue
        if version.startswith((b"go", b"devel")):
            # between marks of 16 bytes that debuggers look for
            inner = modules[16:-16] if len(modules) > 32 and modules[-17:-16] == b"\n" else b""
            name = version.decode(errors="replace").partition(" ")[0]
            return name, inner.decode(errors="replace")
    return "", ""


def _counted(data: mmap | bytes, position: int) -> tuple[bytes, int]:
    """A text behind its length (a varint), and where it ends. Raises ValueError."""
    length = shift = 0
    while True:
        byte = data[position]
        position += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > 35:
            raise ValueError("too long")
    if length > LARGEST_LIST or position + length > len(data):
        raise ValueError("too long")
    return data[position : position + length], position + length


def _pointed(elf: Elf, place: int, size: int, flags: int) -> bytes:
    """The text that the pointer at `place` leads to. Raises ValueError."""
    if size not in (4, 8):
        raise ValueError("no size of a pointer")
    kind = ("<" if not flags & 1 else ">") + {4: "I", 8: "Q"}[size]
    (header,) = struct.unpack_from(kind, elf.data, place)
    start, length = struct.unpack(kind[0] + kind[1] * 2, elf.at(header, size * 2))
    if length > LARGEST_LIST:
        raise ValueError("too long")
    return elf.at(start, length)


# -- Rust (rust-secure-code/cargo-auditable)


class _Crate(msgspec.Struct):
    name: str
    version: str
    kind: str = "runtime"


class _Crates(msgspec.Struct):
    packages: list[_Crate]


def _rust_packages(place: str, elf: Elf) -> Iterator[Package]:
    packed = elf.section(_RUST)
    if not packed:
        return
    try:
        listed = zlib.decompressobj().decompress(packed, LARGEST_LIST)
        crates = msgspec.json.decode(listed, type=_Crates).packages
    except (zlib.error, msgspec.MsgspecError):
        return
    for crate in crates:
        if crate.kind == "runtime":
            yield Package("cargo", crate.name, crate.version, place)
