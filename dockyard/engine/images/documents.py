"""Image configurations as JSON: read as others have written them, written as Docker does."""

import re
from typing import Any

import msgspec

from dockyard.errors import InvalidParameter
from dockyard.oci.image_config import ImageConfig

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)")


def decode_config(raw: bytes) -> ImageConfig:
    """An image's configuration document. Raises InvalidParameter when it is none."""
    try:
        return msgspec.json.decode(raw, type=ImageConfig)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        # Go writes null for lists and maps that are empty, which is as good as absent.
        document = without_nulls(msgspec.json.decode(raw))
        return msgspec.convert(_with_lists(document), ImageConfig)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidParameter(f"invalid image configuration: {error}") from None


def without_nulls(value: Any) -> Any:
    """JSON as Go writes it, in which null stands for what is not there, without its nulls."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value if item is not None]
    return value


def _with_lists(document: Any) -> Any:
    """A configuration whose commands are lists where they are one word, as Docker's strslice reads them."""
    for place in ("config", "container_config"):
        part = document.get(place) if isinstance(document, dict) else None
        for key in ("Cmd", "Entrypoint", "Shell"):
            if isinstance(part, dict) and isinstance(part.get(key), str):
                part[key] = [part[key]]
    return document


def check_config(config: ImageConfig) -> None:
    """Raise InvalidParameter for a configuration that no container could run here, or no client could be told of."""
    if config.os not in ("", "linux"):
        raise InvalidParameter(
            f'image operating system "{config.os}" cannot be used on this platform: operating system is not supported'
        )
    history = config.history or []
    if sum(not one.empty_layer for one in history) > len(config.rootfs.diff_ids):
        raise InvalidParameter("invalid image configuration: too many non-empty layers in History section")
    for text in (config.created, *(one.created or None for one in history)):
        if text is not None and not _TIME.fullmatch(text):
            raise InvalidParameter(f'invalid image configuration: parsing time "{text}": it is not RFC 3339')
    for part in (config.config, config.container_config):
        if part is None:
            continue
        check = part.healthcheck
        numbers = [part.stop_timeout or 0]
        if check is not None:
            numbers += [check.interval, check.timeout, check.start_period, check.start_interval, check.retries]
        if not all(-(1 << 63) <= number < 1 << 63 for number in numbers):
            raise InvalidParameter("invalid image configuration: a number is out of range")
        for sets in (part.exposed_ports, part.volumes):
            if not all(value is None or isinstance(value, dict) for value in (sets or {}).values()):
                raise InvalidParameter("invalid image configuration: a port or volume is not an empty object")


def encode_config(config: ImageConfig) -> bytes:
    """The document of an image made here; what is empty is left out, and maps are in the order of their keys."""
    document: dict[str, Any] = msgspec.to_builtins(config, order="deterministic")
    kept = {key: value for key, value in document.items() if value or key in ("architecture", "os", "rootfs")}
    for key in ("config", "container_config"):
        if document.get(key):
            # a StopTimeout of 0 says something
            kept[key] = {k: v for k, v in document[key].items() if v or (k == "StopTimeout" and v is not None)}
    return msgspec.json.encode(kept)
