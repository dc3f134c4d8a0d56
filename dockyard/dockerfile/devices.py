"""`RUN --device=…`: a device of the Container Device Interface by its name (Dockerfile reference, "RUN --device")."""

from __future__ import annotations

import csv
from dataclasses import dataclass

from dockyard.dockerfile.suggestions import suggestion
from dockyard.errors import InvalidParameter

_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")


@dataclass(frozen=True, slots=True)
class DeviceFlag:
    """A device, or devices, that a command wants; without `required` it runs where there are none, too."""

    name: str
    required: bool = False


def parse_device(text: str) -> DeviceFlag:
    """What follows `--device=`: `vendor.com/class=name,required`. Raises InvalidParameter."""
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise InvalidParameter(f"failed to parse csv devices: {error}") from None
    device, required = "", False
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.lower()
        if key == "required" and (not equals or value in _TRUE + _FALSE):
            required = not equals or value in _TRUE
        elif key == "required":
            raise InvalidParameter(f"invalid value for {key}: {value}")
        elif key == "name" and equals:
            if device:
                raise InvalidParameter(f"device name already set to {device}")
            device = value
        elif not device:
            device = field
        elif not equals:
            raise InvalidParameter(f"invalid field '{field}' must be a key=value pair")
        else:
            near = suggestion(key, ("name", "required"))
            raise InvalidParameter(f"unexpected key '{key}' in '{field}'{near}")
    return DeviceFlag(device, required)
