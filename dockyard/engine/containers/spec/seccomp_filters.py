"""Seccomp filters for containers: each distinct profile is compiled once, a client's in a process of its own.

A profile of some thirty rules can keep libseccomp busy for hours, and nothing stops a thread that is at it. A process
ends after SECONDS of work, or when it takes more than MEMORY, whatever has become of the daemon meanwhile.
"""

import asyncio
import os
import resource
import sys
from asyncio.subprocess import PIPE

import msgspec

from dockyard.errors import InvalidParameter
from dockyard.linux import seccomp
from dockyard.oci.runtime_spec import Seccomp

SECONDS = 5  # of a processor; Docker's default profile takes 0.03
MEMORY = 1 << 30  # bytes
MOST = 256  # filters that are kept


class SeccompFilters:
    """The filters compiled so far."""

    def __init__(self) -> None:
        self._kept: dict[bytes, bytes] = {}

    async def compiled(self, profile: Seccomp, *, builtin: bool) -> bytes:
        """The filter as an array of struct sock_filter. Raises InvalidParameter.

        `builtin`: the profile is our own, so that it may be compiled right here.
        """
        key = msgspec.json.encode(profile)
        program = self._kept.get(key)
        if program is None:
            program = seccomp.compile_profile(profile) if builtin else await _compile_apart(key)
            if len(self._kept) >= MOST:
                self._kept.clear()
            self._kept[key] = program
        return program


async def _compile_apart(profile: bytes) -> bytes:
    command = "from dockyard.engine.containers.spec.seccomp_filters import main; main()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", command, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    try:
        program, said = await process.communicate(profile)
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode == 0:
        return program
    reason = said.decode(errors="replace").strip()
    if not reason:  # stopped by its limits
        reason = f"it takes libseccomp more than {SECONDS} s or {MEMORY >> 20} MiB"
    raise InvalidParameter(f"seccomp profile can't be compiled: {reason}")


def main() -> None:
    """Compile the profile at stdin to stdout."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    profile = msgspec.json.decode(sys.stdin.buffer.read(), type=Seccomp)
    try:
        program = seccomp.compile_profile(profile)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
    with os.fdopen(1, "wb") as out:
        out.write(program)
