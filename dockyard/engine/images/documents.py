"""Image configurations as JSON: read as others have written them, written as Docker does."""

from typing import Any

import msgspec

from dockyard.errors import InvalidParameter
from dockyard.oci.image_config import ImageConfig


def decode_config(raw: bytes) -> ImageConfig:
    """An image's configuration document. Raises InvalidParameter when it is none."""
    try:
        return msgspec.json.decode(raw, type=ImageConfig)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        # Go writes null for lists and maps that are empty, which is as good as absent.
        return msgspec.convert(without_nulls(msgspec.json.decode(raw)), ImageConfig)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidParameter(f"invalid image configuration: {error}") from None


def without_nulls(value: Any) -> Any:
    """JSON as Go writes it, in which null stands for what is not there, without its nulls."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value if item is not None]
    return value


def encode_config(config: ImageConfig) -> bytes:
    """The document of an image made here; what is empty is left out, and maps are in the order of their keys."""
    document: dict[str, Any] = msgspec.to_builtins(config, order="deterministic")
    kept = {key: value for key, value in document.items() if value or key in ("architecture", "os", "rootfs")}
    for key in ("config", "container_config"):
        if document.get(key):
            # a StopTimeout of 0 says something
            kept[key] = {k: v for k, v in document[key].items() if v or (k == "StopTimeout" and v is not None)}
    return msgspec.json.encode(kept)
