"""Every key of a project, in the order in which Compose writes them.

The order and what is left out when empty matter: a service's configuration hash is that of its JSON (`hashes.py`), and
containers that Docker Compose made are taken over only if it is the same.
"""

from __future__ import annotations

from dockyard.compose.errors import ComposeError
from dockyard.compose.model.kinds import (
    AnyTexts,
    Boolean,
    Command,
    Count,
    Cpus,
    Duration,
    Field,
    HealthTest,
    Hosts,
    Keys,
    Kind,
    Labels,
    ListOf,
    ManyOptions,
    MapOf,
    Mode,
    Options,
    Pairs,
    Record,
    Single,
    Size,
    TextOrTexts,
    Texts,
    Variables,
    Whole,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dockyard.compose.model.kinds import Tree

TEXT = Kind()
BOOLEAN = Boolean()
WHOLE = Whole()
SINGLE = Single()
SIZE = Size()
DURATION = Duration()
TEXTS = Texts()
TEXT_OR_TEXTS = TextOrTexts()
PAIRS = Pairs()
LABELS = Labels()
VARIABLES = Variables()
OPTIONS = Options()
COMMAND = Field(Command(), kept="json")
SWITCH = Field(BOOLEAN, pointer=True)  # false is not the same as not said
NUMBER = Field(WHOLE, pointer=True)
SPAN = Field(DURATION, pointer=True)


class Ulimit(Kind):
    """{soft, hard}, or one number for both."""

    def read(self, value: Any, where: str) -> Any:
        if isinstance(value, int):
            return value
        if not isinstance(value, dict):
            raise ComposeError(f"unexpected value type {type(value).__name__} for ulimit")
        return {key: WHOLE.read(value[key], f"{where}.{key}") for key in ("soft", "hard") if key in value}

    def json(self, value: Any) -> Any:
        return {key: item for key, item in value.items() if item} if isinstance(value, dict) else value

    def yaml(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {"soft": value.get("soft", 0), "hard": value.get("hard", 0)}
        return value or {"soft": 0, "hard": 0}


class EnvFile(Kind):
    """A file of variables; its path alone if it must be there."""

    def read(self, value: Any, where: str) -> Any:
        return {
            "path": TEXT.read(value["path"], where),
            "required": BOOLEAN.read(value.get("required", False), where),
            **({"format": str(value["format"])} if value.get("format") else {}),
        }

    def json(self, value: Any) -> Any:
        return value["path"] if value["required"] else value

    def yaml(self, value: Any) -> Any:
        return value["path"] if value["required"] else {"path": value["path"], "required": False}


ULIMITS = MapOf(Ulimit())
FILE_MOUNT = Record(
    {"source": TEXT, "target": TEXT, "uid": TEXT, "gid": TEXT, "mode": Field(Mode(), pointer=True)}, name="file mount"
)
HOOK = Record(
    {
        "command": COMMAND,
        "user": TEXT,
        "privileged": BOOLEAN,
        "working_dir": TEXT,
        "environment": VARIABLES,
    }
)
BUILD = Record(
    {
        "context": TEXT,
        "dockerfile": TEXT,
        "dockerfile_inline": TEXT,
        "entitlements": TEXTS,
        "args": VARIABLES,
        "provenance": TEXT,
        "sbom": TEXT,
        "ssh": Keys(),
        "labels": LABELS,
        "cache_from": TEXT_OR_TEXTS,
        "cache_to": TEXT_OR_TEXTS,
        "no_cache": BOOLEAN,
        "additional_contexts": PAIRS,
        "pull": BOOLEAN,
        "extra_hosts": Hosts(),
        "isolation": TEXT,
        "network": TEXT,
        "target": TEXT,
        "secrets": ListOf(FILE_MOUNT),
        "shm_size": SIZE,
        "tags": TEXT_OR_TEXTS,
        "ulimits": ULIMITS,
        "platforms": TEXT_OR_TEXTS,
        "privileged": BOOLEAN,
    }
)
DEVELOP = Record(
    {
        "watch": ListOf(
            Record(
                {
                    "path": Field(TEXT, kept="both"),
                    "action": Field(TEXT, kept="both"),
                    "target": TEXT,
                    "exec": Field(HOOK, kept="json"),
                    "include": TEXTS,
                    "ignore": TEXTS,
                    "initial_sync": BOOLEAN,
                }
            )
        )
    }
)
LIMIT = Record({"path": Field(TEXT, kept="both", json="Path"), "rate": Field(SIZE, kept="both", json="Rate")})
BLKIO = Record(
    {
        "weight": WHOLE,
        "weight_device": ListOf(
            Record({"path": Field(TEXT, kept="both", json="Path"), "weight": Field(WHOLE, kept="both", json="Weight")})
        ),
        "device_read_bps": ListOf(LIMIT),
        "device_read_iops": ListOf(LIMIT),
        "device_write_bps": ListOf(LIMIT),
        "device_write_iops": ListOf(LIMIT),
    }
)
DEVICE_REQUEST = Record(
    {"capabilities": TEXTS, "driver": TEXT, "count": Count(), "device_ids": TEXTS, "options": PAIRS}
)
UPDATE = Record(
    {
        "parallelism": NUMBER,
        "delay": DURATION,
        "failure_action": TEXT,
        "monitor": DURATION,
        "max_failure_ratio": SINGLE,
        "order": TEXT,
    }
)
RESOURCE = Record(
    {
        "cpus": Cpus(),
        "memory": SIZE,
        "pids": WHOLE,
        "devices": ListOf(DEVICE_REQUEST),
        "generic_resources": ListOf(
            Record(
                {
                    "discrete_resource_spec": Field(
                        Record({"kind": Field(TEXT, kept="both"), "value": Field(WHOLE, kept="both")}), pointer=True
                    )
                }
            )
        ),
    }
)
DEPLOY = Record(
    {
        "mode": TEXT,
        "replicas": NUMBER,
        "labels": LABELS,
        "update_config": Field(UPDATE, pointer=True),
        "rollback_config": Field(UPDATE, pointer=True),
        "resources": Field(
            Record({"limits": Field(RESOURCE, pointer=True), "reservations": Field(RESOURCE, pointer=True)}),
            kept="json",
        ),
        "restart_policy": Field(
            Record({"condition": TEXT, "delay": SPAN, "max_attempts": NUMBER, "window": SPAN}), pointer=True
        ),
        "placement": Field(
            Record(
                {
                    "constraints": TEXTS,
                    "preferences": ListOf(Record({"spread": TEXT})),
                    "max_replicas_per_node": WHOLE,
                }
            ),
            kept="json",
        ),
        "endpoint_mode": TEXT,
    }
)
ENDPOINT = Record(
    {
        "aliases": TEXTS,
        "driver_opts": OPTIONS,
        "gw_priority": WHOLE,
        "interface_name": TEXT,
        "ipv4_address": TEXT,
        "ipv6_address": TEXT,
        "link_local_ips": TEXTS,
        "mac_address": TEXT,
        "priority": WHOLE,
    }
)
PORT = Record(
    {
        "name": TEXT,
        "mode": TEXT,
        "host_ip": TEXT,
        "target": WHOLE,
        "published": TEXT,
        "protocol": TEXT,
        "app_protocol": TEXT,
    }
)
VOLUME_MOUNT = Record(
    {
        "type": TEXT,
        "source": TEXT,
        "target": TEXT,
        "read_only": BOOLEAN,
        "consistency": TEXT,
        "bind": Field(
            Record({"selinux": TEXT, "propagation": TEXT, "create_host_path": BOOLEAN, "recursive": TEXT}), pointer=True
        ),
        "volume": Field(Record({"labels": PAIRS, "nocopy": BOOLEAN, "subpath": TEXT}), pointer=True),
        "tmpfs": Field(Record({"size": SIZE, "mode": WHOLE}), pointer=True),
        "image": Field(Record({"subpath": TEXT}), pointer=True),
    }
)
DEPENDENCY = Record({"condition": TEXT, "restart": BOOLEAN, "required": Field(BOOLEAN, kept="both")})
HEALTHCHECK = Record(
    {
        "test": HealthTest(),
        "timeout": SPAN,
        "interval": SPAN,
        "retries": NUMBER,
        "start_period": SPAN,
        "start_interval": SPAN,
        "disable": BOOLEAN,
    }
)
SERVICE = Record(
    {
        "profiles": TEXTS,
        "annotations": PAIRS,
        "attach": SWITCH,
        "build": Field(BUILD, pointer=True),
        "develop": Field(DEVELOP, pointer=True),
        "blkio_config": Field(BLKIO, pointer=True),
        "cap_add": TEXTS,
        "cap_drop": TEXTS,
        "cgroup_parent": TEXT,
        "cgroup": TEXT,
        "cpu_count": WHOLE,
        "cpu_percent": SINGLE,
        "cpu_period": WHOLE,
        "cpu_quota": WHOLE,
        "cpu_rt_period": WHOLE,
        "cpu_rt_runtime": WHOLE,
        "cpus": SINGLE,
        "cpuset": TEXT,
        "cpu_shares": WHOLE,
        "command": COMMAND,
        "configs": ListOf(FILE_MOUNT),
        "container_name": TEXT,
        "credential_spec": Field(Record({"config": TEXT, "file": TEXT, "registry": TEXT}), pointer=True),
        "depends_on": MapOf(DEPENDENCY),
        "deploy": Field(DEPLOY, pointer=True),
        "device_cgroup_rules": TEXTS,
        "devices": ListOf(Record({"source": TEXT, "target": TEXT, "permissions": TEXT})),
        "dns": TEXT_OR_TEXTS,
        "dns_opt": TEXTS,
        "dns_search": TEXT_OR_TEXTS,
        "dockerfile": TEXT,
        "domainname": TEXT,
        "entrypoint": COMMAND,
        "provider": Field(Record({"type": TEXT, "options": ManyOptions()}), pointer=True),
        "environment": VARIABLES,
        "env_file": ListOf(EnvFile()),
        "expose": AnyTexts(),
        "extends": Field(Record({"file": TEXT, "service": TEXT}), pointer=True),
        "external_links": TEXTS,
        "extra_hosts": Hosts(),
        "group_add": TEXTS,
        "gpus": ListOf(DEVICE_REQUEST),
        "hostname": TEXT,
        "healthcheck": Field(HEALTHCHECK, pointer=True),
        "image": TEXT,
        "init": SWITCH,
        "ipc": TEXT,
        "isolation": TEXT,
        "labels": LABELS,
        "label_file": TEXTS,
        "links": TEXTS,
        "logging": Field(Record({"driver": TEXT, "options": OPTIONS}), pointer=True),
        "log_driver": TEXT,
        "log_opt": OPTIONS,
        "mem_limit": SIZE,
        "mem_reservation": SIZE,
        "memswap_limit": SIZE,
        "mem_swappiness": SIZE,
        "mac_address": TEXT,
        "models": MapOf(Record({"endpoint_var": TEXT, "model_var": TEXT}), nulls=True),
        "net": TEXT,
        "network_mode": TEXT,
        "networks": MapOf(ENDPOINT, nulls=True),
        "oom_kill_disable": BOOLEAN,
        "oom_score_adj": WHOLE,
        "pid": TEXT,
        "pids_limit": WHOLE,
        "platform": TEXT,
        "ports": ListOf(PORT),
        "privileged": BOOLEAN,
        "pull_policy": TEXT,
        "read_only": BOOLEAN,
        "restart": TEXT,
        "runtime": TEXT,
        "scale": NUMBER,
        "secrets": ListOf(FILE_MOUNT),
        "security_opt": TEXTS,
        "shm_size": SIZE,
        "stdin_open": BOOLEAN,
        "stop_grace_period": SPAN,
        "stop_signal": TEXT,
        "storage_opt": OPTIONS,
        "sysctls": PAIRS,
        "tmpfs": TEXT_OR_TEXTS,
        "tty": BOOLEAN,
        "ulimits": ULIMITS,
        "use_api_socket": BOOLEAN,
        "user": TEXT,
        "userns_mode": TEXT,
        "uts": TEXT,
        "volume_driver": TEXT,
        "volumes": ListOf(VOLUME_MOUNT),
        "volumes_from": TEXTS,
        "working_dir": TEXT,
        "post_start": ListOf(HOOK),
        "pre_stop": ListOf(HOOK),
    },
    name="service",
)
IPAM = Record(
    {
        "driver": TEXT,
        "config": ListOf(Record({"subnet": TEXT, "gateway": TEXT, "ip_range": TEXT, "aux_addresses": PAIRS})),
    }
)
NETWORK = Record(
    {
        "name": TEXT,
        "driver": TEXT,
        "driver_opts": OPTIONS,
        "ipam": Field(IPAM, kept="json"),
        "external": BOOLEAN,
        "internal": BOOLEAN,
        "attachable": BOOLEAN,
        "labels": LABELS,
        "enable_ipv4": SWITCH,
        "enable_ipv6": SWITCH,
    },
    name="network",
)
VOLUME = Record(
    {"name": TEXT, "driver": TEXT, "driver_opts": OPTIONS, "external": BOOLEAN, "labels": LABELS}, name="volume"
)
FILE_OBJECT = Record(
    {
        "name": TEXT,
        "file": TEXT,
        "environment": TEXT,
        "content": TEXT,
        "external": BOOLEAN,
        "labels": LABELS,
        "driver": TEXT,
        "driver_opts": OPTIONS,
        "template_driver": TEXT,
    },
    name="file object",
)
AI_MODEL = Record({"name": TEXT, "model": TEXT, "context_size": WHOLE, "runtime_flags": TEXTS}, name="model")

# the sections of a project in the order in which they are written
SECTIONS: dict[str, Record] = {
    "services": SERVICE,
    "networks": NETWORK,
    "volumes": VOLUME,
    "secrets": FILE_OBJECT,
    "configs": FILE_OBJECT,
    "models": AI_MODEL,
}
FILE_SECTIONS = ("secrets", "configs")


def read_section(name: str, tree: Tree) -> Tree:
    """A section's entries, read. Raises ComposeError."""
    kind = SECTIONS[name]
    found = {}
    for key, value in sorted(tree.items()):
        entry = kind.read(value or {}, f"{name}[{key}]")
        if name in FILE_SECTIONS and "x-#value" in entry:
            entry["content"] = entry.pop("x-#value")
        found[key] = entry
    return found
