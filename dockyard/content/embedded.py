"""Images that come with the engine, for machines where no registry answers: busybox, hello-world and registry.

They are made on the spot, always with the same digests for the same ingredients: busybox from a static one that was
installed with the engine, or else from the distribution's; hello-world from a program of ours of a few hundred bytes,
written here byte by byte; registry from the Python that runs this and `dockyard.registry`.
"""

import os
import platform
import struct
import subprocess
import time
from collections.abc import Callable

from dockyard.content import embedded_registry
from dockyard.content.embedded_layer import EmbeddedImage, Layer
from dockyard.oci.image_config import ContainerConfig
from dockyard.oci.reference import DEFAULT_DOMAIN, Reference
from dockyard.prerequisites import busybox

WRITTEN = "2026-11-24T00:00:00Z"  # hello-world, by us; busybox is as old as its program
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

GREETING = """
Hello from Dockyard!
This message shows that your installation works. To print it,

 1. the client asked the daemon, over a UNIX socket, for a container of the image "hello-world";
 2. the daemon had no such image and no registry answered, so it took the one it carries;
 3. it stacked a writable layer on the image's only layer, and asked its zygote for a process;
 4. that process put itself into namespaces and a cgroup of its own, made the layers its root, dropped its
    privileges, and became the program that prints this;
 5. the program's output went from a pipe to the client's own socket, and from there to your terminal.

For a shell in a container:

    dockyard run -it --rm busybox sh
"""


def embedded_image(name: Reference) -> EmbeddedImage | None:
    """The embedded image of that name, or None when there is none (or no busybox on the host)."""
    if name.domain != DEFAULT_DOMAIN or name.digest is not None:
        return None
    tag = name.tag or "latest"
    if name.path == "library/registry" and embedded_registry.TAGS.fullmatch(tag):
        return _registry(tag)
    maker = _IMAGES.get(name.path) if tag == "latest" else None
    return maker() if maker is not None else None


def _busybox() -> EmbeddedImage | None:
    found = _busybox_layer()
    if found is None:
        return None
    layer, written = found
    config = ContainerConfig(cmd=["sh"], env=[PATH])
    return EmbeddedImage("busybox:latest", layer, config, written, "a static busybox")


def _registry(tag: str) -> EmbeddedImage | None:
    """On top of busybox, so that there is a shell for those who want to look around."""
    found = _busybox_layer()
    if found is None:
        return None
    layer, written = found
    embedded_registry.add_to(layer)
    config = embedded_registry.config(PATH)
    return EmbeddedImage(f"registry:{tag}", layer, config, written, "dockyard's registry")


def _busybox_layer() -> tuple[Layer, str] | None:
    """(A layer with busybox, how old that is); None when there is none."""
    path = busybox()
    if path is None:
        return None
    with open(path, "rb") as file:
        program = file.read()
        written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(os.fstat(file.fileno()).st_mtime))
    if b"/ld-linux" in program[:4096] or b"ld-musl" in program[:4096]:
        return None  # dynamically linked: useless without its libraries
    listed = subprocess.run([path, "--list"], capture_output=True, text=True, check=False).stdout.split()
    layer = Layer()
    for folder, mode in (
        ("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("home", 0o755), ("proc", 0o555), ("root", 0o700),
        ("sys", 0o555), ("tmp", 0o1777), ("usr", 0o755), ("usr/bin", 0o755), ("usr/sbin", 0o755), ("sbin", 0o755),
        ("var", 0o755), ("var/www", 0o755), ("var/spool", 0o755), ("var/spool/mail", 0o755),
    ):  # fmt: skip
        layer.directory(folder, mode)
    layer.file("bin/busybox", program, 0o755)
    for applet in sorted(set(listed) - {"busybox"}):
        layer.hard_link(f"bin/{applet}", "bin/busybox")
    layer.file(
        "etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nbin:x:2:2:bin:/bin:/bin/false\n"
        b"sys:x:3:3:sys:/dev:/bin/false\nsync:x:4:100:sync:/bin:/bin/sync\nmail:x:8:8:mail:/var/spool/mail:/bin/false\n"
        b"www-data:x:33:33:www-data:/var/www:/bin/false\noperator:x:37:37:Operator:/var:/bin/false\n"
        b"nobody:x:65534:65534:nobody:/home:/bin/false\n",
        0o644,
    )
    layer.file(
        "etc/group",
        b"root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nwheel:x:10:root\nmail:x:8:\n"
        b"www-data:x:33:\noperator:x:37:\nusers:x:100:\nnobody:x:65534:\n",
        0o644,
    )
    layer.file("etc/shadow", b"root:*:::::::\nnobody:*:::::::\n", 0o640)
    return layer, written


def _hello_world() -> EmbeddedImage | None:
    program = _PROGRAMS.get(platform.machine())
    if program is None:
        return None
    layer = Layer()
    layer.file("hello", program(GREETING.encode()), 0o755)
    config = ContainerConfig(cmd=["/hello"], env=[PATH])
    return EmbeddedImage("hello-world:latest", layer, config, WRITTEN, "hello")


_IMAGES: dict[str, Callable[[], EmbeddedImage | None]] = {
    "library/busybox": _busybox,
    "library/hello-world": _hello_world,
}


# -- a program that writes a text and ends, for each machine

_LOAD_ADDRESS = 0x400000


def _elf(machine: int, code: Callable[[int, int], bytes], text: bytes) -> bytes:
    """A static ELF executable (elf(5)): one segment with headers, `code(address of text, its length)`, and the text."""
    start = 64 + 56
    length = len(code(0, 0))
    address = _LOAD_ADDRESS + start + length
    body = code(address, len(text)) + text
    total = start + len(body)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, machine, 1, _LOAD_ADDRESS + start, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, total, total, 0x1000)
    return header + segment + body


def _x86_64(text: bytes) -> bytes:
    def code(address: int, length: int) -> bytes:
        return (
            b"\xb8\x01\x00\x00\x00"  # mov eax, 1 (write)
            b"\xbf\x01\x00\x00\x00"  # mov edi, 1 (stdout)
             b"\xbe" + struct.pack("<I", address)  # mov esi, text
            + b"\xba" + struct.pack("<I", length)  # mov edx, length
            + b"\x0f\x05"  # syscall
            b"\xb8\x3c\x00\x00\x00"  # mov eax, 60 (exit)
            b"\x31\xff"  # xor edi, edi
            b"\x0f\x05"  # syscall
        )  # fmt: skip

    return _elf(62, code, text)


def _aarch64(text: bytes) -> bytes:
    def code(address: int, length: int) -> bytes:
        def move(register: int, value: int) -> bytes:
            low = 0xD2800000 | (value & 0xFFFF) << 5 | register  # movz
            high = 0xF2A00000 | (value >> 16 & 0xFFFF) << 5 | register  # movk, lsl 16
            return struct.pack("<II", low, high)

        call = struct.pack("<I", 0xD4000001)  # svc 0
        write = move(0, 1) + move(1, address) + move(2, length) + move(8, 64) + call
        return write + move(0, 0) + move(8, 93) + call

    return _elf(183, code, text)


_PROGRAMS: dict[str, Callable[[bytes], bytes]] = {"x86_64": _x86_64, "aarch64": _aarch64}
