"""Configuration hashes: what a container, network or volume was made from. They are Docker Compose's own."""

from __future__ import annotations

from dockyard.compose.model.go_values import json_text
from dockyard.compose.model.kinds import Float
from dockyard.compose.model.language import NETWORK, SERVICE, VOLUME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Tree = dict[str, Any]

# what may change without the containers being made anew
IGNORED = ("build", "pull_policy", "scale", "depends_on", "profiles")


def service_hash(service: Tree) -> str:
    """The hash of a service's configuration."""
    return _digest(service_json(service))


def service_json(service: Tree) -> Tree:
    """What of a service counts, as JSON has it."""
    counted = {key: item for key, item in service.items() if key not in IGNORED}
    if counted.get("deploy"):
        counted["deploy"] = {key: item for key, item in counted["deploy"].items() if key != "replicas"}
    found: Tree = SERVICE.json(counted)
    return found


def network_hash(network: Tree) -> str:
    """The hash of a network's configuration."""
    return _digest(NETWORK.json(network))


def volume_hash(volume: Tree) -> str:
    """The hash of a volume's configuration."""
    return _digest(VOLUME.json({**volume, "driver": volume.get("driver") or "local"}))


def _digest(value: Tree) -> str:
    from _sha256 import sha256  # type: ignore[import-not-found]  # hashlib loads OpenSSL

    text = json_text(_plain(value))
    found: str = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return found


def _plain(value: Any) -> Any:
    """With numbers of 32 bits as the shortest text that reads back."""
    if isinstance(value, Float):
        from dockyard.compose.model.go_values import float_text

        text = float_text(value, bits=32)
        return int(text) if "." not in text and "e" not in text else _Written(text)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


class _Written(float):
    """A number that JSON has as it is written."""

    def __new__(cls, text: str) -> _Written:
        made = super().__new__(cls, text)
        made._text = text  # type: ignore[attr-defined]  # a float's own attribute
        return made

    def __repr__(self) -> str:
        return str(self._text)  # type: ignore[attr-defined]
