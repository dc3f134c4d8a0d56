"""Settings of dockerd's that Dockyard knows and does not heed: read, checked for their type, and told of at the start.

A `daemon.json` of Docker's shall start this daemon, too. What would make users less safe when it is not heeded is
refused instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dockyard.errors import InvalidParameter

KINDS: dict[str, type | tuple[type, ...]] = {"bool": bool, "int": int, "string": str, "list": list, "map": dict}
LATER = "is not here yet"
NOT_HERE = "has no meaning here"


@dataclass(frozen=True, slots=True)
class Foreign:
    """One setting: the kind of its value, the word on it, and its flag when that is not called like its key."""

    kind: str
    word: str
    flag: str = ""


FOREIGN: dict[str, Foreign] = {
    # networks
    "network-diagnostic-port": Foreign("int", NOT_HERE),
    # monitoring, swarm
    "metrics-addr": Foreign("string", LATER),
    "network-control-plane-mtu": Foreign("int", f"{LATER}: there is no swarm"),
    "node-generic-resources": Foreign("list", f"{LATER}: there is no swarm", "node-generic-resource"),
    "swarm-default-advertise-addr": Foreign("string", f"{LATER}: there is no swarm"),
    "swarm-raft-election-tick": Foreign("int", f"{LATER}: there is no swarm"),
    "swarm-raft-heartbeat-tick": Foreign("int", f"{LATER}: there is no swarm"),
    # how Docker is made
    "containerd": Foreign("string", f"{NOT_HERE}: there is no containerd"),
    "containerd-namespace": Foreign("string", f"{NOT_HERE}: there is no containerd"),
    "containerd-plugins-namespace": Foreign("string", f"{NOT_HERE}: there is no containerd"),
    "cri-containerd": Foreign("bool", f"{NOT_HERE}: there is no containerd"),
    "oom-score-adjust": Foreign("int", f"{NOT_HERE}: the service's unit says it"),
    "raw-logs": Foreign("bool", f"{NOT_HERE}: the log has no colours"),
    "rootless": Foreign("bool", LATER),
    "selinux-enabled": Foreign("bool", LATER),
}
# What a user relies on to be kept out or in.
REFUSED = {
    "authorization-plugins": "there are no authorization plugins here, and without them all would be let in",
    "authorization-plugin": "there are no authorization plugins here, and without them all would be let in",
}
FLAGS = {setting.flag or key: key for key, setting in FOREIGN.items()}


def check(key: str, value: Any) -> str:
    """What is to be told of a setting; "" when it asks for nothing. Raises InvalidParameter for another kind."""
    setting = FOREIGN[key]
    wanted = KINDS[setting.kind]
    if not isinstance(value, wanted) or (setting.kind == "int" and isinstance(value, bool)):
        raise InvalidParameter(f"{key}: expected a {setting.kind}, got {value!r}")
    return f"{key} {setting.word}" if value not in (False, "", 0, [], {}) else ""


def refuse(given: Mapping[str, Any]) -> None:
    """Raise InvalidParameter for a setting that must not be passed over."""
    for key, reason in REFUSED.items():
        if given.get(key):
            raise InvalidParameter(f"{key} {given[key]}: {reason}")
