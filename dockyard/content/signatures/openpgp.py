"""OpenPGP signatures, verified by Sequoia in a process of its own.

A signature may be compressed, and a bomb when it is unpacked: what reads it has bounds of memory and time, and its end
is not the daemon's.

verified([key, …], [signature, …]) -> [Verified(content=b"…"), Verified(failure="…"), …]
"""

from __future__ import annotations

import importlib.util
import resource
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from dockyard.errors import Forbidden, InvalidParameter

if TYPE_CHECKING:
    from pysequoia import Cert

MEMORY = 1 << 30  # bytes
TIME = 20  # seconds of processor time; each signature takes a millisecond
PATIENCE = 120.0  # seconds
LARGEST_CONTENT = 1 << 20


class _Job(msgspec.Struct):
    keys: list[bytes]
    signatures: list[bytes]


class Verified(msgspec.Struct, omit_defaults=True):
    """What a signature is of, or why that is not to be believed."""

    content: bytes = b""
    failure: str = ""


class _Answer(msgspec.Struct, omit_defaults=True):
    verified: list[Verified] = []
    failure: str = ""  # of the keys


def check() -> None:
    """Raise InvalidParameter when the library is not here."""
    if importlib.util.find_spec("pysequoia") is None:
        raise InvalidParameter("signedBy needs the package pysequoia: pip install 'dockyard[gpg]'")


def verified(keys: Sequence[bytes], signatures: Sequence[bytes]) -> list[Verified]:
    """Each signature by one of the `keys`, which are OpenPGP keys or keyrings, armored or not.

    Raises Forbidden when the keys cannot be used, or no answer comes of it.
    """
    check()
    job = msgspec.json.encode(_Job(list(keys), list(signatures)))
    command = [sys.executable, "-c", "from dockyard.content.signatures.openpgp import main; main()"]
    try:
        done = subprocess.run(
            command, input=job, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=PATIENCE, cwd="/"
        )
        answer = msgspec.json.decode(done.stdout, type=_Answer)
    except (subprocess.TimeoutExpired, msgspec.DecodeError):
        raise Forbidden("the signatures cannot be verified: one is too much to read") from None
    if answer.failure:
        raise Forbidden(answer.failure)
    return answer.verified


def main() -> None:
    """Do the job that stands at descriptor 0."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (TIME, TIME))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=_Job)
    sys.stdout.buffer.write(msgspec.json.encode(_work(job)))


def _work(job: _Job) -> _Answer:
    from pysequoia import Cert

    certificates: list[Cert] = []
    for number, key in enumerate(job.keys, 1):
        try:
            certificates += Cert.split_bytes(key)
        except Exception as error:
            return _Answer(failure=f"cannot use GPG key {number}: {_first_line(error)}")
    if not certificates:
        return _Answer(failure="No public keys imported")
    return _Answer(list(map(partial(_verify, certificates), job.signatures)))


def _verify(certificates: Sequence[Cert], signature: bytes) -> Verified:
    import pysequoia

    try:
        found = pysequoia.verify(bytes=signature, store=lambda identifiers: certificates)
        content, by = found.bytes or b"", [one.certificate for one in found.valid_sigs]
    except Exception as error:
        return Verified(failure=f"Invalid GPG signature: {_first_line(error)}")
    if len(by) != 1:
        return Verified(failure=f"Unexpected GPG signature count {len(by)}")
    for certificate in certificates:
        # what a key has signed while it was good counts for Sequoia, and not for GnuPG
        if certificate.fingerprint == by[0] and certificate.expiration and certificate.expiration < datetime.now(UTC):
            return Verified(failure=f"Invalid GPG signature: key {by[0]} has expired")
    if len(content) > LARGEST_CONTENT:
        return Verified(failure="Invalid GPG signature: it is of too much")
    return Verified(content)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]  # the rest is where in the library it was
