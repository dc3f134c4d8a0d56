"""What a Compose file may say, before short forms are written out: keys, types and choices (compose-spec's schema).

A check gives the most specific thing that is wrong, in the words that Compose has for it: "services.web.ports must be a
array", "services.web additional properties 'imge' not allowed".
"""

from __future__ import annotations

import re

from dockyard.compose.errors import ComposeError
from dockyard.compose.model.yaml_source import Date

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Path = tuple[str, ...]
    # how specific a problem is, and what it is
    Problem = tuple[int, str]
    Check = Callable[[Any, Path], "Problem | None"]

NAME = r"[a-zA-Z0-9._-]+"
LARGEST = 1 << 62


def validate(tree: Any, file: str) -> None:
    """Raise ComposeError when a file's tree is not as the schema wants it."""
    problem = FILE(tree, ())
    if problem is not None:
        raise ComposeError(f"validating {file}: {problem[1]}")


def _problem(path: Path, text: str, more: int = 0) -> Problem:
    return len(path) + more, f"{'.'.join(path)} {text}"


def _worst(found: Problem | None, other: Problem | None) -> Problem | None:
    """The more specific one; the first of equals."""
    if found is None or (other is not None and other[0] > found[0]):
        return other
    return found


def _is(value: Any, kind: str) -> bool:
    if kind == "string":
        return isinstance(value, str) and not isinstance(value, Date)
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "null":
        return value is None
    if kind == "object":
        return isinstance(value, dict)
    if kind == "array":
        return isinstance(value, list)
    if isinstance(value, bool):
        return False
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, (int, float))


def _readable(kinds: tuple[str, ...]) -> str:
    words = ["mapping" if kind == "object" else kind for kind in kinds]
    if len(words) == 1:
        return words[0]
    words.sort()
    return f"{', '.join(words[:-1])} or {words[-1]}"


def types(*kinds: str, low: int | None = None, high: int | None = None) -> Check:
    """A value of one of these types, a number within bounds."""

    def check(value: Any, path: Path) -> Problem | None:
        if not any(_is(value, kind) for kind in kinds):
            return _problem(path, f"must be a {_readable(kinds)}")
        if low is not None and not isinstance(value, str) and value < low:
            return _problem(path, f"must be greater than or equal to {low}")
        if high is not None and not isinstance(value, str) and value > high:
            return _problem(path, f"must be less than or equal to {high}")
        return None

    return check


def choice(*words: str) -> Check:
    """One of these words."""
    listed = ", ".join(f"'{word}'" for word in words)

    def check(value: Any, path: Path) -> Problem | None:
        if not _is(value, "string"):
            return _problem(path, "must be a string")
        if value not in words:
            return _problem(path, f"value must be {'one of ' if len(words) > 1 else ''}{listed}")
        return None

    return check


def matching(pattern: str) -> Check:
    """Text in which a pattern is found."""
    compiled = re.compile(pattern)

    def check(value: Any, path: Path) -> Problem | None:
        if not _is(value, "string"):
            return _problem(path, "must be a string")
        if not compiled.search(value):
            return _problem(path, f"'{value}' does not match pattern '{pattern}'")
        return None

    return check


def array(item: Check, *, unique: bool = False) -> Check:
    """A list."""

    def check(value: Any, path: Path) -> Problem | None:
        if not isinstance(value, list):
            return _problem(path, "must be a array")
        worst: Problem | None = None
        for index, entry in enumerate(value):
            worst = _worst(worst, item(entry, (*path, str(index))))
        if worst is None and unique:
            equal = _equal_items(value)
            if equal is not None:
                return _problem(path, f"items at {equal[0]} and {equal[1]} are equal")
        return worst

    return check


def _equal_items(items: list[Any]) -> tuple[int, int] | None:
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) == len(items) and len(set(texts)) == len(texts):
        return None
    for second in range(len(items)):
        for first in range(second):
            one, other = items[first], items[second]
            if one == other and isinstance(one, bool) == isinstance(other, bool):
                return first, second
    return None


def mapping(
    keys: Mapping[str, Check] | None = None,
    *,
    required: tuple[str, ...] = (),
    names: str = "",
    values: Check | None = None,
    closed: bool = True,
    extensions: bool = True,
    null: bool = False,
) -> Check:
    """A mapping of known `keys`, and of any keys that match `names` to `values`; with `null` it may be empty."""
    known = keys or {}
    pattern = re.compile(names) if names else None

    def check(value: Any, path: Path) -> Problem | None:
        if value is None and null:
            return None
        if not isinstance(value, dict):
            return _problem(path, "must be a mapping or null" if null else "must be a mapping")
        worst: Problem | None = None
        missing = [key for key in required if key not in value]
        if missing:
            listed = ", ".join(f"'{key}'" for key in missing)
            worst = _problem(path, f"missing propert{'y' if len(missing) == 1 else 'ies'} {listed}")
        unknown = []
        for key, item in value.items():
            below = known.get(key)
            if below is None and values is not None and (pattern is None or pattern.fullmatch(key)):
                below = values
            if below is not None:
                worst = _worst(worst, below(item, (*path, key)))
            elif closed and not (extensions and key.startswith("x-")):
                unknown.append(f"'{key}'")
        if unknown:
            worst = _worst(worst, _problem(path, f"additional properties {', '.join(unknown)} not allowed", 1))
        return worst

    return check


def either(*checks: Check) -> Check:
    """What one of several checks takes."""

    def check(value: Any, path: Path) -> Problem | None:
        worst: Problem | None = None
        for one in checks:
            problem = one(value, path)
            if problem is None:
                return None
            worst = _worst(worst, problem)
        return worst

    return check


TEXT = types("string")
BOOLEAN = types("boolean", "string")
INTEGER = types("integer", "string")
NUMBER = types("number", "string")
TEXTS = array(TEXT, unique=True)
TEXT_OR_TEXTS = either(TEXT, TEXTS)
PLAIN = types("string", "number", "boolean", "null")
PAIRS = either(mapping(values=PLAIN), TEXTS)
COMMAND = either(types("null"), TEXT, array(TEXT))
OPTIONS = mapping(values=types("string", "number"), closed=False)
HOSTS = either(mapping(values=either(TEXT, array(TEXT))), TEXTS)
EXTERNAL = either(types("boolean", "string"), mapping({"name": TEXT}))

ULIMITS = mapping(
    names="[a-z]+",
    values=either(INTEGER, mapping({"hard": INTEGER, "soft": INTEGER}, required=("soft", "hard"))),
    closed=False,
)
FILE_MOUNTS = array(either(TEXT, mapping({"source": TEXT, "target": TEXT, "uid": TEXT, "gid": TEXT, "mode": NUMBER})))
HOOK = mapping(
    {"command": COMMAND, "user": TEXT, "privileged": BOOLEAN, "working_dir": TEXT, "environment": PAIRS},
    required=("command",),
)
DEVICE_KEYS = {"capabilities": TEXTS, "count": INTEGER, "device_ids": TEXTS, "driver": TEXT, "options": PAIRS}
BUILD = mapping(
    {
        "context": TEXT,
        "dockerfile": TEXT,
        "dockerfile_inline": TEXT,
        "entitlements": array(TEXT),
        "args": PAIRS,
        "ssh": PAIRS,
        "labels": PAIRS,
        "cache_from": array(TEXT),
        "cache_to": array(TEXT),
        "no_cache": BOOLEAN,
        "additional_contexts": PAIRS,
        "network": TEXT,
        "provenance": BOOLEAN,
        "sbom": BOOLEAN,
        "pull": BOOLEAN,
        "target": TEXT,
        "shm_size": INTEGER,
        "extra_hosts": HOSTS,
        "isolation": TEXT,
        "privileged": BOOLEAN,
        "secrets": FILE_MOUNTS,
        "tags": array(TEXT),
        "ulimits": ULIMITS,
        "platforms": array(TEXT),
    }
)
LIMIT = mapping({"path": TEXT, "rate": INTEGER}, extensions=False)
BLKIO = mapping(
    {
        **dict.fromkeys(("device_read_bps", "device_read_iops", "device_write_bps", "device_write_iops"), array(LIMIT)),
        "weight": INTEGER,
        "weight_device": array(mapping({"path": TEXT, "weight": INTEGER}, extensions=False)),
    },
    extensions=False,
)
UPDATE = mapping(
    {
        "parallelism": INTEGER,
        "delay": TEXT,
        "failure_action": TEXT,
        "monitor": TEXT,
        "max_failure_ratio": NUMBER,
        "order": choice("start-first", "stop-first"),
    }
)
DEPLOY = mapping(
    {
        "mode": TEXT,
        "endpoint_mode": TEXT,
        "replicas": INTEGER,
        "labels": PAIRS,
        "rollback_config": UPDATE,
        "update_config": UPDATE,
        "resources": mapping(
            {
                "limits": mapping({"cpus": NUMBER, "memory": TEXT, "pids": INTEGER}),
                "reservations": mapping(
                    {
                        "cpus": NUMBER,
                        "memory": TEXT,
                        "generic_resources": array(
                            mapping({"discrete_resource_spec": mapping({"kind": TEXT, "value": NUMBER})})
                        ),
                        "devices": array(mapping(DEVICE_KEYS, required=("capabilities",))),
                    }
                ),
            }
        ),
        "restart_policy": mapping({"condition": TEXT, "delay": TEXT, "max_attempts": INTEGER, "window": TEXT}),
        "placement": mapping(
            {
                "constraints": array(TEXT),
                "preferences": array(mapping({"spread": TEXT})),
                "max_replicas_per_node": INTEGER,
            }
        ),
    },
    null=True,
)
DEVELOP = mapping(
    {
        "watch": array(
            mapping(
                {
                    "ignore": TEXT_OR_TEXTS,
                    "include": TEXT_OR_TEXTS,
                    "path": TEXT,
                    "action": choice("rebuild", "sync", "restart", "sync+restart", "sync+exec"),
                    "target": TEXT,
                    "exec": HOOK,
                    "initial_sync": types("boolean"),
                },
                required=("path", "action"),
            )
        )
    },
    null=True,
)
HEALTHCHECK = mapping(
    {
        "disable": BOOLEAN,
        "interval": TEXT,
        "retries": NUMBER,
        "test": either(TEXT, array(TEXT)),
        "timeout": TEXT,
        "start_period": TEXT,
        "start_interval": TEXT,
    }
)
DEPENDENCY = mapping(
    {
        "restart": BOOLEAN,
        "required": types("boolean"),
        "condition": choice("service_started", "service_healthy", "service_completed_successfully"),
    },
    required=("condition",),
)
ENDPOINT = either(
    mapping(
        {
            "aliases": TEXTS,
            "interface_name": TEXT,
            "ipv4_address": TEXT,
            "ipv6_address": TEXT,
            "link_local_ips": TEXTS,
            "mac_address": TEXT,
            "driver_opts": OPTIONS,
            "priority": types("number"),
            "gw_priority": types("number"),
        }
    ),
    types("null"),
)
PORT = either(
    types("number"),
    TEXT,
    mapping(
        {
            "name": TEXT,
            "mode": TEXT,
            "host_ip": TEXT,
            "target": INTEGER,
            "published": INTEGER,
            "protocol": TEXT,
            "app_protocol": TEXT,
        }
    ),
)
VOLUME_MOUNT = either(
    TEXT,
    mapping(
        {
            "type": choice("bind", "volume", "tmpfs", "cluster", "npipe", "image"),
            "source": TEXT,
            "target": TEXT,
            "read_only": BOOLEAN,
            "consistency": TEXT,
            "bind": mapping(
                {
                    "propagation": TEXT,
                    "create_host_path": BOOLEAN,
                    "recursive": choice("enabled", "disabled", "writable", "readonly"),
                    "selinux": choice("z", "Z"),
                }
            ),
            "volume": mapping({"labels": PAIRS, "nocopy": BOOLEAN, "subpath": TEXT}),
            "tmpfs": mapping({"size": types("integer", "string", low=0), "mode": NUMBER}),
            "image": mapping({"subpath": TEXT}),
        },
        required=("type",),
    ),
)
MODEL_USE = either(mapping({"endpoint_var": TEXT, "model_var": TEXT}), types("null"))
POLICY = r"always|never|build|if_not_present|missing|refresh|daily|weekly|every_([0-9]+[wdhms])+"
SERVICE = mapping(
    {
        **dict.fromkeys(
            """
            cgroup_parent cpuset domainname hostname image ipc isolation mac_address network_mode platform
            pull_refresh_after restart runtime stop_grace_period stop_signal user uts userns_mode working_dir
            """.split(),
            TEXT,
        ),
        **dict.fromkeys("cap_add cap_drop dns_opt external_links links security_opt volumes_from".split(), TEXTS),
        **dict.fromkeys("attach init oom_kill_disable privileged read_only stdin_open tty".split(), BOOLEAN),
        **dict.fromkeys(
            """
            cpu_shares cpu_quota cpu_period cpu_rt_period cpu_rt_runtime cpus mem_limit memswap_limit pids_limit
            shm_size
            """.split(),
            NUMBER,
        ),
        **dict.fromkeys("mem_reservation mem_swappiness scale".split(), INTEGER),
        **dict.fromkeys("annotations environment labels sysctls".split(), PAIRS),
        **dict.fromkeys("dns dns_search tmpfs".split(), TEXT_OR_TEXTS),
        **dict.fromkeys("command entrypoint".split(), COMMAND),
        **dict.fromkeys("configs secrets".split(), FILE_MOUNTS),
        **dict.fromkeys("device_cgroup_rules profiles".split(), TEXTS),
        **dict.fromkeys("post_start pre_stop".split(), array(HOOK)),
        "develop": DEVELOP,
        "deploy": DEPLOY,
        "build": either(TEXT, BUILD),
        "blkio_config": BLKIO,
        "cgroup": choice("host", "private"),
        "container_name": matching("[a-zA-Z0-9][a-zA-Z0-9_.-]+"),
        "cpu_count": types("string", "integer", low=0),
        "cpu_percent": types("string", "integer", low=0, high=100),
        "credential_spec": mapping({"config": TEXT, "file": TEXT, "registry": TEXT}),
        "depends_on": either(TEXTS, mapping(names=NAME, values=DEPENDENCY, extensions=False)),
        "devices": array(
            either(TEXT, mapping({"source": TEXT, "target": TEXT, "permissions": TEXT}, required=("source",)))
        ),
        "env_file": either(
            TEXT,
            array(
                either(TEXT, mapping({"path": TEXT, "format": TEXT, "required": BOOLEAN}, required=("path",))),
            ),
        ),
        "label_file": either(TEXT, array(TEXT)),
        "expose": array(types("string", "number"), unique=True),
        "extends": either(TEXT, mapping({"service": TEXT, "file": TEXT}, required=("service",))),
        "provider": mapping(
            {
                "type": TEXT,
                "options": mapping(
                    values=either(types("string", "number", "boolean"), array(types("string", "number", "boolean"))),
                    closed=False,
                ),
            },
            required=("type",),
        ),
        "extra_hosts": HOSTS,
        "gpus": either(choice("all"), array(mapping(DEVICE_KEYS, closed=False))),
        "group_add": array(types("string", "number"), unique=True),
        "healthcheck": HEALTHCHECK,
        "logging": mapping({"driver": TEXT, "options": mapping(values=types("string", "number", "null"))}),
        "models": either(TEXTS, mapping(names=NAME, values=MODEL_USE, closed=False)),
        "networks": either(TEXTS, mapping(names=NAME, values=ENDPOINT, extensions=False)),
        "oom_score_adj": types("string", "integer", low=-1000, high=1000),
        "pid": types("string", "null"),
        "ports": array(PORT, unique=True),
        "pull_policy": matching(POLICY),
        "storage_opt": types("object"),
        "ulimits": ULIMITS,
        "use_api_socket": types("boolean"),
        "volumes": array(VOLUME_MOUNT, unique=True),
    }
)
LABELLED = {"name": TEXT, "external": EXTERNAL, "labels": PAIRS}
NETWORK = mapping(
    {
        **LABELLED,
        "driver": TEXT,
        "driver_opts": OPTIONS,
        "ipam": mapping(
            {
                "driver": TEXT,
                "config": array(
                    mapping(
                        {
                            "subnet": TEXT,
                            "ip_range": TEXT,
                            "gateway": TEXT,
                            "aux_addresses": mapping(values=TEXT),
                        }
                    )
                ),
                "options": mapping(values=TEXT),
            }
        ),
        "internal": BOOLEAN,
        "enable_ipv4": BOOLEAN,
        "enable_ipv6": BOOLEAN,
        "attachable": BOOLEAN,
    },
    null=True,
)
VOLUME = mapping({**LABELLED, "driver": TEXT, "driver_opts": OPTIONS}, null=True)
SECRET = mapping(
    {
        **LABELLED,
        "environment": TEXT,
        "file": TEXT,
        "driver": TEXT,
        "driver_opts": OPTIONS,
        "template_driver": TEXT,
    }
)
CONFIG = mapping({**LABELLED, "content": TEXT, "environment": TEXT, "file": TEXT, "template_driver": TEXT})
AI_MODEL = mapping(
    {"name": TEXT, "model": TEXT, "context_size": types("integer"), "runtime_flags": array(TEXT)}, required=("model",)
)
FILE = mapping(
    {
        "version": TEXT,
        "name": TEXT,
        "include": array(
            either(TEXT, mapping({"path": TEXT_OR_TEXTS, "env_file": TEXT_OR_TEXTS, "project_directory": TEXT}))
        ),
        "services": mapping(names=NAME, values=SERVICE, extensions=False),
        "models": mapping(names=NAME, values=AI_MODEL, closed=False),
        "networks": mapping(names=NAME, values=NETWORK, closed=False),
        "volumes": mapping(names=NAME, values=VOLUME, extensions=False),
        "secrets": mapping(names=NAME, values=SECRET, extensions=False),
        "configs": mapping(names=NAME, values=CONFIG, extensions=False),
    }
)
