"""What a container is asked to be, completed: by its image, by the daemon's defaults; and refused where it can't be."""

import ipaddress
import os
from typing import TypeVar

from dockyard.config import NO_SLICE, Config, bytes_of, is_slice
from dockyard.engine.containers.config import ContainerConfig, HostConfig, Ulimit
from dockyard.engine.containers.logs import options as log_options
from dockyard.engine.containers.spec import limits
from dockyard.engine.containers.spec.security import granted_capabilities, security_options
from dockyard.engine.images.image import Image
from dockyard.engine.system import runtimes
from dockyard.engine.system.host_limits import host_limits
from dockyard.errors import InvalidParameter
from dockyard.linux import cgroups
from dockyard.runtime.spec import defaults

T = TypeVar("T")
HEALTH_ACTIONS = ("", "none", "restart", "kill", "stop")
SHORTEST_HEALTH_TIME = 1_000_000  # ns; shorter ones are most likely meant in another unit


def merge_image_config(config: ContainerConfig, image: Image | None) -> None:
    """Fill in what the image says and the request leaves open."""
    base = image.config.config if image is not None else None
    if base is None:
        return
    config.user = config.user or base.user
    config.working_dir = config.working_dir or base.working_dir
    config.stop_signal = config.stop_signal or base.stop_signal
    config.stop_timeout = base.stop_timeout if config.stop_timeout is None else config.stop_timeout
    config.exposed_ports = _merged(base.exposed_ports, config.exposed_ports) or None
    config.volumes = _merged(base.volumes, config.volumes) or None
    config.labels = _merged(base.labels, config.labels)
    given = {entry.partition("=")[0] for entry in config.env or []}
    merged = [*(config.env or []), *(entry for entry in base.env or [] if entry.partition("=")[0] not in given)]
    config.env = merged or base.env  # null where neither says anything, as Docker shows it
    if not config.entrypoint:
        if not config.cmd:
            config.cmd = base.cmd
        if config.entrypoint is None:
            config.entrypoint = base.entrypoint
    if config.entrypoint == [""]:
        config.entrypoint = []
    config.shell = config.shell or base.shell
    if config.healthcheck is None:
        config.healthcheck = base.healthcheck
    elif base.healthcheck is not None and not config.healthcheck.test:
        check = config.healthcheck
        check.test = base.healthcheck.test
        for name in ("interval", "timeout", "start_period", "start_interval", "retries", "on_failure"):
            setattr(check, name, getattr(check, name) or getattr(base.healthcheck, name))


def _merged(base: dict[str, T] | None, own: dict[str, T] | None) -> dict[str, T]:
    """Both, in the order of their keys, as Go writes maps."""
    return dict(sorted({**(base or {}), **(own or {})}.items()))


def check_config(config: ContainerConfig) -> None:
    """Check what is asked to run. Raises InvalidParameter (moby daemon/container.go, validateContainerConfig)."""
    if config.working_dir:
        if not config.working_dir.startswith("/"):
            raise InvalidParameter(
                f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
            )
        config.working_dir = os.path.normpath(config.working_dir).replace("//", "/", 1)
    for entry in config.env or []:
        if not entry.partition("=")[0]:
            raise InvalidParameter(f"invalid environment variable: {entry}")
    for port in config.exposed_ports or {}:
        _check_port(port)
    check = config.healthcheck
    if check is None:
        return
    for name, value in (
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ):
        if value and value < SHORTEST_HEALTH_TIME:
            raise InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")
    if check.retries < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")
    if check.on_failure not in HEALTH_ACTIONS:
        raise InvalidParameter(
            f"invalid health check action '{check.on_failure}': use one of 'none', 'restart', 'kill', or 'stop'"
        )
    if check.test and check.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise InvalidParameter(f"Unknown healthcheck type '{check.test[0]}' (expected 'CMD')")


def _check_port(port: str) -> None:
    number, slash, protocol = port.partition("/")
    numbers = number.split("-")
    good = len(numbers) <= 2 and all(part.isdecimal() and 0 < int(part) < 65536 for part in numbers)
    if not good or (slash and protocol.lower() not in ("tcp", "udp", "sctp")):
        raise InvalidParameter(f'invalid port specification: "{port.removesuffix("/tcp")}"')


def _check_addresses(host: HostConfig) -> None:
    """Published ports and further hosts."""
    for port, bindings in (host.port_bindings or {}).items():
        _check_port(port)
        for binding in bindings or []:
            numbers = binding.host_port.split("-") if binding.host_port else []
            if not all(part.isdecimal() and int(part) < 65536 for part in numbers) or len(numbers) > 2:
                raise InvalidParameter(f'invalid port specification: "{binding.host_port}"')
            if binding.host_ip and not _is_address(binding.host_ip):
                raise InvalidParameter(f"invalid IP address: {binding.host_ip}")
    for entry in host.extra_hosts or []:
        name, colon, address = entry.partition(":")
        if not colon or not name:
            raise InvalidParameter(f'bad format for add-host: "{entry}"')
        address = address.removeprefix("[").removesuffix("]")
        if address != "host-gateway" and not _is_address(address):
            raise InvalidParameter(f'invalid IP address in add-host: "{address}"')


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def settle(host: HostConfig, daemon: Config) -> list[str]:
    """Check what is asked and fill in the daemon's defaults; returns warnings.

    Raises InvalidParameter for values that can't be.
    """
    warnings = limits.verify(host, host_limits())
    _check_addresses(host)
    if host.memory > 0 and host.memory_swap == 0:
        host.memory_swap = 2 * host.memory  # as much swap again
    if host.oom_kill_disable is None and host_limits().oom_kill_disable:
        host.oom_kill_disable = False  # inspect says null only where there is nothing to be set
    named = {limit.name for limit in host.ulimits or []}
    further = [Ulimit(name, limit.hard, limit.soft) for name, limit in daemon.default_ulimits.items()]
    if further:
        host.ulimits = [*(host.ulimits or []), *(limit for limit in further if limit.name not in named)]
    granted_capabilities(host.cap_add, host.cap_drop, host.privileged)
    if "" in (host.annotations or {}):
        raise InvalidParameter("invalid Annotations: the empty string is not permitted as an annotation key")
    if host.isolation not in ("", "default"):
        raise InvalidParameter(f"invalid isolation '{host.isolation}' on linux")
    check_restart_policy(host)
    host.restart_policy.name = host.restart_policy.name or "no"
    host.network_mode = "bridge" if host.network_mode in ("", "default") else host.network_mode
    host.log_config.type = host.log_config.type or daemon.log_driver
    given = host.log_config.config or {}
    host.log_config.config = given if host.log_config.type != daemon.log_driver else {**daemon.log_opts, **given}
    log_options.check(host.log_config.type, host.log_config.config)
    host.ipc_mode = host.ipc_mode or daemon.default_ipc_mode
    host.cgroupns_mode = host.cgroupns_mode or _cgroupns_mode(host, daemon)
    host.shm_size = host.shm_size or bytes_of(daemon.default_shm_size)
    if daemon.systemd_cgroups and host.cgroup_parent and not is_slice(host.cgroup_parent):
        raise InvalidParameter(NO_SLICE)
    host.runtime = host.runtime or daemon.default_runtime
    runtimes.find(host.runtime, daemon)
    if host.masked_paths is None and not host.privileged:
        host.masked_paths = list(defaults.MASKED_PATHS)
    if host.readonly_paths is None and not host.privileged:
        host.readonly_paths = list(defaults.READONLY_PATHS)
    if security_options(host.security_opt).unmasked:
        host.masked_paths, host.readonly_paths = [], []
    if not forwards_ipv4() and host.network_mode not in ("host", "none"):
        warnings.append("IPv4 forwarding is disabled. Networking will not work.")
    return warnings


def _cgroupns_mode(host: HostConfig, daemon: Config) -> str:
    version_1 = cgroups.layout().version == 1
    if host.privileged and version_1:
        return "host"
    return daemon.default_cgroupns_mode or ("host" if version_1 else "private")


def forwards_ipv4() -> bool:
    """Whether the host passes packets on."""
    try:
        with open("/proc/sys/net/ipv4/ip_forward") as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def check_restart_policy(host: HostConfig) -> None:
    """Raises InvalidParameter."""
    policy = host.restart_policy
    if policy.name not in ("", "no", "always", "unless-stopped", "on-failure"):
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{policy.name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if policy.maximum_retry_count and policy.name not in ("", "on-failure"):
        negative = " and cannot be negative" if policy.maximum_retry_count < 0 else ""
        raise InvalidParameter(
            f"invalid restart policy: maximum retry count can only be used with 'on-failure'{negative}"
        )
    if policy.maximum_retry_count < 0:
        raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    if host.auto_remove and policy.name not in ("", "no"):
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")
