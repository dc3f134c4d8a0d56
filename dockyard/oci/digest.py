"""Content addresses: `sha256:` and 64 hexadecimal digits (image-spec, descriptor.md "Digests")."""

import hashlib
import re

from dockyard.errors import InvalidParameter

PATTERN = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def digest_of(data: bytes) -> str:
    """The sha256 address of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_digest(text: str) -> bool:
    """Whether `text` is a whole digest."""
    return PATTERN.fullmatch(text) is not None


def check_digest(text: str) -> str:
    """`text` itself. Raises InvalidParameter when it is no digest: it may become part of a path."""
    if not is_digest(text):
        raise InvalidParameter(f"invalid checksum digest format: {text!r}")
    return text
