"""The daemon's settings: dockerd's command line flags and daemon.json keys, from one table of fields.

A field's type says how its flag is read and what daemon.json may hold; its description is its help text.
Where both the file and the command line set the same thing, the daemon refuses to guess.
"""

import os
import re
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from dockyard import foreign_settings, network_settings
from dockyard.builder_settings import BuilderSettings
from dockyard.errors import InvalidParameter
from dockyard.timestamps import duration

DEFAULT_FILE = "/etc/dockyard/daemon.json"
DEFAULT_SOCKET = "unix:///run/dockyard/docker.sock"


def _about(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


OWN_RUNTIME = "dockyard-runc"
# Runtimes that need no configuration where their program is installed, and Docker's other name for its default.
KNOWN_RUNTIMES = ("io.containerd.runc.v2", "runc", "crun", "runsc", "youki", "kata-runtime")


class Runtime(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """An OCI runtime that a container may ask for by name: the program's path and arguments before its command."""

    path: str
    runtime_args: list[str] = []


class DefaultUlimit(msgspec.Struct, frozen=True, rename="pascal", forbid_unknown_fields=True):
    """A ulimit that containers have unless they ask for another; -1 is no limit."""

    name: str
    hard: int = 0
    soft: int = 0


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Every setting, with its default."""

    hosts: Annotated[list[str], _about("Daemon socket(s) to connect to")] = []
    tls: Annotated[bool | None, _about("Use TLS; implied by --tlsverify")] = None
    tlsverify: Annotated[bool | None, _about("Use TLS and verify the remote")] = None
    tlscacert: Annotated[str, _about("Trust certs signed only by this CA")] = "~/.docker/ca.pem"
    tlscert: Annotated[str, _about("Path to TLS certificate file")] = "~/.docker/cert.pem"
    tlskey: Annotated[str, _about("Path to TLS key file")] = "~/.docker/key.pem"
    group: Annotated[str, _about("Group for the unix socket")] = "docker"
    data_root: Annotated[str, _about("Root directory of persistent state")] = "/var/lib/dockyard"
    exec_root: Annotated[str, _about("Root directory for execution state files")] = "/run/dockyard"
    pidfile: Annotated[str, _about("Path to use for daemon PID file")] = ""
    debug: Annotated[bool, _about("Enable debug mode")] = False
    log_level: Annotated[str, _about('Set the logging level ("debug"|"info"|"warn"|"error"|"fatal")')] = "info"
    storage_driver: Annotated[str, _about("Storage driver to use")] = ""
    storage_opts: Annotated[list[str], _about("Storage driver options")] = []
    bridge: Annotated[str, _about("Attach containers to a network bridge, created when missing")] = ""
    bip: Annotated[str, _about("IPv4 address for the default bridge, in CIDR notation")] = ""
    fixed_cidr: Annotated[str, _about("IPv4 subnet for fixed IPs")] = ""
    default_gateway: Annotated[str, _about("Default gateway IPv4 address for the default bridge network")] = ""
    ipv6: Annotated[bool, _about("Enable IPv6 networking for the default bridge network")] = False
    bip6: Annotated[str, _about("IPv6 address for the default bridge, in CIDR notation")] = ""
    fixed_cidr_v6: Annotated[str, _about("IPv6 subnet for the default bridge network")] = ""
    default_gateway_v6: Annotated[str, _about("Default gateway IPv6 address for the default bridge network")] = ""
    default_network_opts: Annotated[
        dict[str, dict[str, str]], _about("Default network options, as DRIVER=OPTION=VALUE")
    ] = {}
    mtu: Annotated[int, _about("Set the MTU of the default bridge")] = 1500
    icc: Annotated[bool, _about("Enable inter-container communication on the default bridge")] = True
    ip: Annotated[str, _about("Host IP for port publishing from the default bridge")] = "0.0.0.0"
    iptables: Annotated[bool, _about("Enable addition of firewall rules")] = True
    ip6tables: Annotated[bool, _about("Enable addition of firewall rules for IPv6")] = True
    allow_direct_routing: Annotated[
        bool, _about("Allow remote access to published ports on container IP addresses")
    ] = False
    respect_host_firewall: Annotated[
        bool, _about("Published ports obey the host's INPUT rules; containers then see the proxy's address")
    ] = False
    bridge_accept_fwmark: Annotated[
        str, _about("In bridge networks, accept packets with this firewall mark, or mark/mask")
    ] = ""
    ip_forward: Annotated[bool, _about("Enable net.ipv4.ip_forward")] = True
    ip_forward_no_drop: Annotated[
        bool, _about("Do not set the policy of FORWARD to DROP when enabling IP forwarding")
    ] = False
    ip_masq: Annotated[bool, _about("Enable IP masquerading")] = True
    firewall_backend: Annotated[str, _about('Packet filter to use ("nftables" | "iptables" | "none")')] = ""
    userland_proxy: Annotated[bool | None, _about("Use a process for each published port; false: no proxy at all")] = (
        None
    )
    userland_proxy_path: Annotated[str, _about("Path to another userland proxy than our own")] = ""
    default_address_pools: Annotated[
        list[network_settings.AddressPool], _about("Default address pools for networks")
    ] = []
    dns: Annotated[list[str], _about("DNS server to use")] = []
    dns_opts: Annotated[list[str], _about("DNS options to use")] = []
    dns_search: Annotated[list[str], _about("DNS search domains to use")] = []
    host_gateway_ips: Annotated[
        list[str], _about("IPs that host-gateway in --add-host means; default: the bridge's")
    ] = []
    cluster_store: Annotated[
        str, _about("What hosts of the same overlay networks share: file:///FOLDER, which all of them have")
    ] = ""
    cluster_advertise: Annotated[
        str, _about("Address, or link, at which other hosts' overlay networks reach this one")
    ] = ""
    cgroup_parent: Annotated[str, _about("Set parent cgroup for all containers")] = ""
    exec_opts: Annotated[
        list[str], _about('Runtime execution options: native.cgroupdriver=VALUE ("cgroupfs" | "systemd")')
    ] = []
    live_restore: Annotated[bool, _about("Keep containers running while the daemon is down")] = True
    init: Annotated[bool, _about("Run an init in the container to forward signals and reap processes")] = False
    init_path: Annotated[str, _about("Path to the docker-init binary")] = ""
    default_runtime: Annotated[str, _about("Default OCI runtime for containers")] = OWN_RUNTIME
    runtimes: Annotated[dict[str, Runtime], _about("Register an additional OCI compatible runtime")] = {}
    default_shm_size: Annotated[int | str, _about("Default shm size for containers")] = 64 << 20
    userns_remap: Annotated[str, _about("User/Group setting for user namespaces")] = ""
    default_ulimits: Annotated[dict[str, DefaultUlimit], _about("Default ulimits for containers")] = {}
    default_cgroupns_mode: Annotated[
        str, _about('Default mode for containers cgroup namespace ("host" | "private")')
    ] = ""
    cdi_spec_dirs: Annotated[list[str], _about("CDI specification directories (default /etc/cdi, /var/run/cdi)")] = []
    cpu_rt_period: Annotated[
        int, _about("Limit the CPU real-time period in microseconds for the parent cgroup for all containers")
    ] = 0
    cpu_rt_runtime: Annotated[
        int, _about("Limit the CPU real-time runtime in microseconds for the parent cgroup for all containers")
    ] = 0
    default_ipc_mode: Annotated[str, _about('Default mode for containers ipc ("shareable"|"private")')] = "private"
    no_new_privileges: Annotated[bool, _about("Set no-new-privileges by default for new containers")] = False
    seccomp_profile: Annotated[str, _about('Path to seccomp profile; "unconfined" disables the default one')] = ""
    log_driver: Annotated[str, _about("Default driver for container logs")] = "json-file"
    log_opts: Annotated[dict[str, str], _about("Default log driver options for containers")] = {}
    builder: Annotated[BuilderSettings, _about("What builds may be granted, and what of their cache is kept")] = (
        BuilderSettings()
    )
    registry_mirrors: Annotated[list[str], _about("Preferred registry mirror")] = []
    cleanup_budget: Annotated[str, _about("Keep images, build cache and logs to a size, e.g. 50GB")] = ""
    cleanup_keep: Annotated[str, _about("How long nothing is removed after its last use")] = "10m"
    signature_policy: Annotated[str, _about("policy.json that says which images' signatures are demanded")] = ""
    signature_lookaside: Annotated[
        str, _about("Folder of files that say where signatures by GPG are (containers-registries.d)")
    ] = "/etc/containers/registries.d"
    insecure_registries: Annotated[list[str], _about("Enable insecure registry communication")] = []
    max_concurrent_downloads: Annotated[int, _about("Set the max concurrent downloads")] = 3
    max_concurrent_uploads: Annotated[int, _about("Set the max concurrent uploads")] = 5
    labels: Annotated[list[str], _about("Set key=value labels to the daemon")] = []
    shutdown_timeout: Annotated[int, _about("Set the shutdown timeout, in seconds")] = 15
    max_download_attempts: Annotated[int, _about("Set the max download attempts for each pull")] = 9
    http_proxy: Annotated[str, _about("HTTP proxy URL to use for outgoing traffic")] = ""
    https_proxy: Annotated[str, _about("HTTPS proxy URL to use for outgoing traffic")] = ""
    no_proxy: Annotated[str, _about("Comma-separated list of hosts or addresses for which the proxy is skipped")] = ""
    log_format: Annotated[str, _about('Set the logging format ("text"|"json")')] = "text"
    experimental: Annotated[bool, _about("Enable experimental features")] = False
    features: Annotated[dict[str, bool], _about("Enable a feature")] = {}

    @property
    def pid_path(self) -> str:
        """Where the daemon's PID is written."""
        return self.pidfile or f"{self.exec_root}/dockyard.pid"

    @property
    def systemd_cgroups(self) -> bool:
        """Whether systemd keeps the containers' cgroups, each as a scope unit, instead of us."""
        return _exec_option(self.exec_opts, CGROUP_DRIVER) == "systemd"

    @property
    def listeners(self) -> list[str]:
        """The addresses to listen on; one without a scheme is TCP's, as dockerd has it."""
        return [host if "://" in host else f"tcp://{host}" for host in self.hosts] or [DEFAULT_SOCKET]


CGROUP_DRIVER = "native.cgroupdriver"


def _exec_option(options: Sequence[str], name: str) -> str:
    """The first value that `--exec-opt` gives to `name`, as in dockerd; "" for none."""
    pairs = (option.partition("=")[::2] for option in options)
    return next((value.strip() for key, value in pairs if key.strip().lower() == name), "")


def is_slice(name: str) -> bool:
    """Whether `name` may be the parent of a scope unit, as far as Docker looks."""
    return len(name) > len(".slice") and name.endswith(".slice")


NO_SLICE = 'cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"'

# A list's flag names one element of it.
FLAG_NAMES = {
    "hosts": "host",
    "storage_opts": "storage-opt",
    "exec_opts": "exec-opt",
    "dns_opts": "dns-opt",
    "runtimes": "add-runtime",
    "log_opts": "log-opt",
    "registry_mirrors": "registry-mirror",
    "insecure_registries": "insecure-registry",
    "labels": "label",
    "default_address_pools": "default-address-pool",
    "features": "feature",
    "default_ulimits": "default-ulimit",
    "cdi_spec_dirs": "cdi-spec-dir",
    "host_gateway_ips": "host-gateway-ip",
    "default_network_opts": "default-network-opt",
}
SHORT_FLAGS = {
    "H": "hosts",
    "D": "debug",
    "l": "log_level",
    "s": "storage_driver",
    "b": "bridge",
    "G": "group",
    "p": "pidfile",
}
# What a running daemon takes up on SIGHUP (dockerd's set, as far as it applies).
RELOADABLE = frozenset(
    {
        "debug",
        "log_level",
        "labels",
        "live_restore",
        "shutdown_timeout",
        "registry_mirrors",
        "insecure_registries",
        "signature_policy",
        "signature_lookaside",
        "cleanup_budget",
        "cleanup_keep",
        "max_concurrent_downloads",
        "max_concurrent_uploads",
        "default_runtime",
        "runtimes",
        "features",
    }
)
SMALLEST_BUDGET = 100_000_000
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")


class CommandLine(msgspec.Struct):
    """What the daemon was asked on its command line: settings, and what is no setting."""

    settings: dict[str, Any] = {}
    foreign: dict[str, Any] = {}  # what dockerd would heed, see foreign_settings
    warnings: list[str] = []  # of the settings as they were merged last
    config_file: str = ""
    validate: bool = False
    recover: bool = False
    reset: bool = False
    stop_containers: bool = False
    show_help: bool = False
    show_version: bool = False


def _kinds() -> dict[str, tuple[Any, str]]:
    """Every flag's field, its plain type and help text."""
    kinds = {}
    for name, hint in get_type_hints(Config, include_extras=True).items():
        plain, meta = get_args(hint)
        if plain is not BuilderSettings:  # it is daemon.json's alone
            kinds[name] = (plain, meta.description)
    return kinds


def parse_command_line(arguments: Sequence[str]) -> CommandLine:
    """Read dockerd's flags. Raises InvalidParameter in dockerd's words for one that is unknown or malformed."""
    kinds = _kinds()
    by_flag = {FLAG_NAMES.get(name, name.replace("_", "-")): name for name in kinds}
    line = CommandLine(settings={})
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument in ("-h", "--help"):
            line.show_help = True
            continue
        if argument in ("-v", "--version"):
            line.show_version = True
            continue
        if argument.startswith("--") and len(argument) > 2:
            flag, has_value, value = argument[2:].partition("=")
            shown = f"--{flag}"
            if flag == "validate":
                line.validate = _boolean(shown, value if has_value else "true")
                continue
            if flag == "recover":
                line.recover = _boolean(shown, value if has_value else "true")
                continue
            if flag == "reset":
                line.reset = _boolean(shown, value if has_value else "true")
                continue
            if flag == "stop-containers":
                line.stop_containers = _boolean(shown, value if has_value else "true")
                continue
            if flag == "config-file":
                line.config_file = value if has_value else _next(rest, shown)
                continue
            if flag in foreign_settings.FLAGS:
                _set_foreign(line, flag, shown, value if has_value else None, rest)
                continue
            if flag == "authorization-plugin":
                foreign_settings.refuse({flag: value or _next(rest, shown)})
            name = by_flag.get(flag, "")
            if not name:
                raise InvalidParameter(f"unknown flag: {shown}")
        elif argument.startswith("-") and len(argument) > 1:
            name = SHORT_FLAGS.get(argument[1], "")
            if not name:
                raise InvalidParameter(f"unknown shorthand flag: {argument[1]!r} in {argument}")
            value = argument[2:].removeprefix("=")
            has_value = value
            shown = f"-{argument[1]}"
        else:
            raise InvalidParameter(f'unknown command: dockyardd {argument}\nSee "dockyardd --help".')
        kind = kinds[name][0]
        if _is_boolean(kind):
            line.settings[name] = _boolean(shown, value if has_value else "true")
            continue
        if not has_value:
            value = _next(rest, shown)
        _set(line.settings, name, kind, shown, value)
    return line


def _set_foreign(line: CommandLine, flag: str, shown: str, value: str | None, rest: list[str]) -> None:
    """A flag of dockerd's that has no effect here."""
    key = foreign_settings.FLAGS[flag]
    kind = foreign_settings.FOREIGN[key].kind
    if kind == "bool":
        line.foreign[key] = _boolean(shown, "true" if value is None else value)
        return
    text = _next(rest, shown) if value is None else value
    if kind == "int" and not re.fullmatch(r"-?\d+", text):
        raise InvalidParameter(
            f'invalid argument "{text}" for "{shown}" flag: strconv.ParseInt: parsing "{text}": invalid syntax'
        )
    values: dict[str, Any] = {"int": int, "list": lambda word: [word], "map": lambda word: {word: True}}
    line.foreign[key] = values.get(kind, str)(text)


def _next(rest: list[str], flag: str) -> str:
    if not rest:
        raise InvalidParameter(f"flag needs an argument: {flag}")
    return rest.pop(0)


def _is_boolean(kind: Any) -> bool:
    return kind is bool or (isinstance(kind, types.UnionType) and bool in get_args(kind))


def _boolean(flag: str, value: str) -> bool:
    if value.lower() in ("1", "t", "true"):
        return True
    if value.lower() in ("0", "f", "false"):
        return False
    raise InvalidParameter(
        f'invalid argument "{value}" for "{flag}" flag: strconv.ParseBool: parsing "{value}": invalid syntax'
    )


def _set(settings: dict[str, Any], name: str, kind: Any, flag: str, value: str) -> None:
    """Put one flag's value into `settings`; lists and maps gather."""
    if name == "runtimes":
        key, separator, path = value.partition("=")
        if not (key and separator and path):
            raise InvalidParameter(f'invalid argument "{value}" for "{flag}" flag: want NAME=PATH')
        settings.setdefault(name, {})[key] = Runtime(path=path)
    elif name == "default_address_pools":
        settings.setdefault(name, []).append(network_settings.address_pool(flag, value))
    elif name == "default_network_opts":
        driver, key, item = network_settings.network_option(flag, value)
        settings.setdefault(name, {}).setdefault(driver, {})[key] = item
    elif name == "default_ulimits":
        settings.setdefault(name, {}).update(_ulimit(flag, value))
    elif get_origin(kind) is dict:
        key, separator, item = value.partition("=")
        settings.setdefault(name, {})[key] = _boolean(flag, item or "true") if name == "features" else item
    elif get_origin(kind) is list:
        settings.setdefault(name, []).append(value)
    elif kind is int:
        try:
            settings[name] = int(value)
        except ValueError:
            raise InvalidParameter(
                f'invalid argument "{value}" for "{flag}" flag: strconv.ParseInt: parsing "{value}": invalid syntax'
            ) from None
    else:
        settings[name] = value


def _ulimit(flag: str, value: str) -> dict[str, DefaultUlimit]:
    name, separator, numbers = value.partition("=")
    soft, _, hard = numbers.partition(":")
    if not (name and separator) or any(not number.removeprefix("-").isdecimal() for number in (soft, hard or soft)):
        raise InvalidParameter(f'invalid argument "{value}" for "{flag}" flag: invalid ulimit argument: {value}')
    return {name: DefaultUlimit(name, int(hard or soft), int(soft))}


_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def bytes_of(text: int | str) -> int:
    """64M, 64mb, 1.5g or a number as bytes. Raises InvalidParameter."""
    if isinstance(text, int):
        return text
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?)(?:i?b)?", text.strip().lower())
    if found is None:
        raise InvalidParameter(f"invalid size: '{text}'")
    return int(float(found[1]) * _UNITS[found[2]])


def read_file(path: str, *, required: bool, warnings: list[str]) -> dict[str, Any]:
    """daemon.json's settings by field name; {} when there is no file and none is required.

    What is to be told of those that are not heeded goes to `warnings`.

    Raises InvalidParameter for bad JSON, an unknown key or a value of the wrong type.
    """
    prefix = f"unable to configure the daemon with file {path}"
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        if required:
            raise InvalidParameter(f"{prefix}: open {path}: no such file or directory") from None
        return {}
    except OSError as error:
        raise InvalidParameter(f"{prefix}: {error.strerror}") from None
    if not data.strip():
        return {}
    try:
        given = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"{prefix}: invalid JSON: {error}") from None
    if not isinstance(given, dict):
        raise InvalidParameter(f"{prefix}: invalid JSON: want an object, got {type(given).__name__}")
    try:
        given = _without_foreign(given, warnings)
    except InvalidParameter as error:
        raise InvalidParameter(f"{prefix}: {error}") from None
    known = {field.encode_name: field.name for field in msgspec.structs.fields(Config)}
    unknown = sorted(set(given) - set(known))
    if unknown:
        names = ", ".join(unknown)
        raise InvalidParameter(f"{prefix}: the following directives don't match any configuration option: {names}")
    try:
        config = msgspec.convert(given, Config)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"{prefix}: {error}") from None
    return {known[key]: getattr(config, known[key]) for key in given}


def _without_foreign(given: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    """The settings that are ours, Docker's other spellings of them brought to one. Raises InvalidParameter."""
    foreign_settings.refuse(given)
    ours = {}
    for key, value in given.items():
        if key in foreign_settings.FOREIGN:
            said = foreign_settings.check(key, value)
            if said:
                warnings.append(said)
        elif key == "proxies" and isinstance(value, dict):
            ours.update(value)
        elif key == "host-gateway-ip" and isinstance(value, str):
            ours["host-gateway-ips"] = [value] if value else []
        else:
            ours[key] = value
    return ours


def load(arguments: Sequence[str]) -> tuple[CommandLine, Config]:
    """The command line and the settings it and daemon.json give together.

    Raises InvalidParameter with one line that names what is wrong.
    """
    line = parse_command_line(arguments)
    if line.show_help or line.show_version:
        return line, Config()
    return line, merge(line)


def merge(line: CommandLine) -> Config:
    """daemon.json (read anew) with the command line's settings on top. Raises InvalidParameter."""
    path = line.config_file or DEFAULT_FILE
    line.warnings = [said for key, value in line.foreign.items() if (said := foreign_settings.check(key, value))]
    from_file = read_file(path, required=bool(line.config_file), warnings=line.warnings)
    twice = sorted(set(from_file) & set(line.settings))
    if twice:
        said = ", ".join(
            f"{FLAG_NAMES.get(name, name.replace('_', '-'))}: "
            f"(from flag: {_shown(line.settings[name])}, from file: {_shown(from_file[name])})"
            for name in twice
        )
        raise InvalidParameter(
            f"unable to configure the daemon with file {path}: "
            f"the following directives are specified both as a flag and in the configuration file: {said}"
        )
    config = Config(**from_file, **line.settings)
    _check(config)
    return config


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_mark(text: str) -> tuple[int, int] | None:
    """A firewall mark and its mask, each decimal or hexadecimal: "1", "0x1/0xff"; None when it is none."""
    mark, _, mask = text.partition("/")
    try:
        value, bits = int(mark, 0), int(mask or "0xffffffff", 0)
    except ValueError:
        return None
    return (value, bits) if 0 <= value < 1 << 32 and 0 <= bits < 1 << 32 else None


def _check(config: Config) -> None:
    if config.log_level not in LOG_LEVELS:
        raise InvalidParameter(f'invalid logging level: "{config.log_level}"')
    if config.log_format not in ("text", "json"):
        raise InvalidParameter(f"invalid log format: {config.log_format}")
    if config.max_download_attempts < 1:
        raise InvalidParameter(f"invalid max download attempts: {config.max_download_attempts}")
    for name in ("data_root", "exec_root"):
        if not os.path.isabs(getattr(config, name)):
            raise InvalidParameter(f"{name.replace('_', '-')} must be an absolute path: {getattr(config, name)!r}")
    for host in config.listeners:
        scheme = host.partition("://")[0]
        if scheme not in ("unix", "tcp", "fd"):
            raise InvalidParameter(f"invalid bind address ({host}): unsupported proto {scheme}")
        if scheme == "tcp" and "/" in host.partition("://")[2]:
            raise InvalidParameter(f"invalid bind address ({host}): should not contain a path element")
    for label in config.labels:
        if "=" not in label:
            raise InvalidParameter(f"bad attribute format: {label}")
    for option in config.exec_opts:
        if option.partition("=")[0].strip().lower() != CGROUP_DRIVER or "=" not in option:
            raise InvalidParameter(f"unknown exec-opt: {option}; want {CGROUP_DRIVER}=cgroupfs or =systemd")
    driver = _exec_option(config.exec_opts, CGROUP_DRIVER)
    if driver not in ("", "cgroupfs", "systemd"):
        raise InvalidParameter(f"{CGROUP_DRIVER} option {driver} not supported")
    if config.systemd_cgroups and config.cgroup_parent and not is_slice(config.cgroup_parent):
        raise InvalidParameter(NO_SLICE)
    _check_networks(config)
    bytes_of(config.default_shm_size)
    for rule in (config.builder.gc, *config.builder.gc.policy):
        for name, value in msgspec.structs.asdict(rule).items():
            if name.endswith(("_storage", "_space")):
                bytes_of(value or 0)
    if config.cleanup_budget and bytes_of(config.cleanup_budget) < SMALLEST_BUDGET:
        raise InvalidParameter(f"cleanup-budget {config.cleanup_budget} is less than 100 MB")
    if (duration(config.cleanup_keep) or 0) < 0 or duration(config.cleanup_keep) is None:
        raise InvalidParameter(f"cleanup-keep: '{config.cleanup_keep}' is no duration such as 10m")
    if config.default_cgroupns_mode not in ("", "host", "private"):
        raise InvalidParameter(
            f'default cgroup namespace mode ({config.default_cgroupns_mode}) is invalid; use "host" or "private"'
        )
    if config.bridge_accept_fwmark and parse_mark(config.bridge_accept_fwmark) is None:
        raise InvalidParameter(f"invalid firewall mark: {config.bridge_accept_fwmark!r}")
    if config.mtu < 68:
        raise InvalidParameter(f"invalid default MTU: {config.mtu}")
    if config.default_runtime not in (OWN_RUNTIME, *KNOWN_RUNTIMES, *config.runtimes):
        raise InvalidParameter(f'specified default runtime "{config.default_runtime}" does not exist')
    if config.max_concurrent_downloads < 1 or config.max_concurrent_uploads < 1:
        raise InvalidParameter("max concurrent downloads and uploads must be at least 1")


def _check_networks(config: Config) -> None:
    network_settings.check_bridge(config.bridge, config.bip, config.bip6)
    if not config.icc and not config.iptables:
        raise InvalidParameter(
            "You specified --iptables=false with --icc=false. ICC=false uses iptables to function. "
            "Please set --icc or --iptables to true"
        )
    if not config.icc and config.ipv6 and not config.ip6tables:
        raise InvalidParameter(
            "You specified --ip6tables=false with --icc=false. ICC=false uses ip6tables to function. "
            "Please set --icc or --ip6tables to true"
        )
    if config.firewall_backend not in ("", "nftables", "iptables", "none"):
        raise InvalidParameter(
            f'invalid firewall-backend "{config.firewall_backend}", must be "iptables" or "nftables"'
        )
    if config.respect_host_firewall and config.userland_proxy is False:
        raise InvalidParameter("--respect-host-firewall needs the userland proxy: do not set --userland-proxy=false")
    network_settings.check_proxy(config.userland_proxy_path, config.userland_proxy is True)
    network_settings.check_addresses(
        config.default_gateway, config.default_gateway_v6, config.ip, config.dns, config.host_gateway_ips
    )
    network_settings.check_search(config.dns_search)
    network_settings.check_pools(config.default_address_pools)


def help_text() -> str:
    """What `dockyardd --help` prints."""
    short = {name: letter for letter, name in SHORT_FLAGS.items()}
    rows = []
    for name, (kind, description) in _kinds().items():
        flag = FLAG_NAMES.get(name, name.replace("_", "-"))
        origin = get_origin(kind)
        value = ""
        if origin is list:
            value = " list"
        elif origin is dict:
            value = " map"
        elif kind is int:
            value = " int"
        elif not _is_boolean(kind):
            value = " string"
        rows.append((flag, short.get(name, ""), value, description))
    rows.append(("config-file", "", " string", f"Daemon configuration file (default {DEFAULT_FILE})"))
    rows.append(("validate", "", "", "Validate daemon configuration and exit"))
    rows.append(("recover", "", "", "Rebuild a lost or damaged state database from what is left, and exit"))
    rows.append(("reset", "", "", "Remove all containers, images, volumes and networks, and exit"))
    rows.append(("stop-containers", "", "", "Stop the containers that run on without a daemon, and exit"))
    rows.append(("help", "", "", "Print usage"))
    rows.append(("version", "v", "", "Print version information and quit"))
    lines = ["", "Usage:  dockyardd [OPTIONS]", "", "A self-sufficient runtime for containers.", "", "Options:"]
    width = max(len(flag + value) for flag, _, value, _ in rows) + 3
    for flag, letter, value, description in sorted(rows):
        head = f"  -{letter}, --" if letter else "      --"
        lines.append(f"{head}{flag + value:<{width}}{description}")
    return "\n".join(lines) + "\n"
