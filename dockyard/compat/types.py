"""docker-py's types: dicts in the API's own words, made from its arguments."""

from __future__ import annotations

from typing import Any, ClassVar

from dockyard.client.container_options import size, words


class Fields(dict[str, Any]):
    """A dict whose items are attributes, too, by docker-py's names."""

    fields: ClassVar[dict[str, str]] = {}  # attribute -> item

    def __getattr__(self, name: str) -> Any:
        if name not in self.fields:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return self.get(self.fields[name])

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.fields:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        self[self.fields[name]] = value

    def _given(self, given: dict[str, Any], name: str, default: Any = None) -> Any:
        """An argument, in docker-py's spelling or the API's."""
        value = given.get(name, given.get(self.fields[name]))
        return default if value is None else value


class LogConfigTypesEnum:
    """Names of log drivers."""

    JSON, SYSLOG, JOURNALD, GELF, FLUENTD, NONE = "json-file", "syslog", "journald", "gelf", "fluentd", "none"


class LogConfig(Fields):
    """Where a container's output goes."""

    types = LogConfigTypesEnum
    fields: ClassVar = {"type": "Type", "config": "Config"}

    def __init__(self, **given: Any) -> None:
        super().__init__(Type=self._given(given, "type"), Config=self._given(given, "config", {}))

    def set_config_value(self, key: str, value: Any) -> None:
        """Set an option of the driver."""
        self["Config"][key] = value

    def unset_config(self, key: str) -> None:
        """Drop an option of the driver."""
        self["Config"].pop(key, None)


class Ulimit(Fields):
    """One limit of a process."""

    fields: ClassVar = {"name": "Name", "soft": "Soft", "hard": "Hard"}

    def __init__(self, **given: Any) -> None:
        super().__init__({field: self._given(given, name) for name, field in self.fields.items()})


class DeviceRequest(Fields):
    """Devices of a driver, such as GPUs."""

    fields: ClassVar = {
        "driver": "Driver",
        "count": "Count",
        "device_ids": "DeviceIDs",
        "capabilities": "Capabilities",
        "options": "Options",
    }

    def __init__(self, **given: Any) -> None:
        nothing = {"driver": "", "count": 0, "device_ids": [], "capabilities": [], "options": {}}
        super().__init__({field: self._given(given, name, nothing[name]) for name, field in self.fields.items()})


class Healthcheck(Fields):
    """How to find out whether a container is well. Times in nanoseconds."""

    fields: ClassVar = {
        "test": "Test",
        "interval": "Interval",
        "timeout": "Timeout",
        "retries": "Retries",
        "start_period": "StartPeriod",
        "start_interval": "StartInterval",
    }

    def __init__(self, **given: Any) -> None:
        found = {field: self._given(given, name) for name, field in self.fields.items()}
        if isinstance(found["Test"], str):
            found["Test"] = ["CMD-SHELL", found["Test"]]
        super().__init__({field: value for field, value in found.items() if value is not None})


class Mount(dict[str, Any]):
    """One mount."""

    def __init__(
        self,
        target: str,
        source: str | None,
        type: str = "volume",
        read_only: bool = False,
        consistency: str | None = None,
        propagation: str | None = None,
        no_copy: bool = False,
        labels: dict[str, str] | None = None,
        driver_config: dict[str, Any] | None = None,
        tmpfs_size: int | str | None = None,
        tmpfs_mode: int | None = None,
        subpath: str | None = None,
    ) -> None:
        super().__init__(Target=target, Source=source, Type=type, ReadOnly=read_only)
        if consistency:
            self["Consistency"] = consistency
        volume: dict[str, Any] = {
            "NoCopy": no_copy or None,
            "Labels": labels,
            "DriverConfig": driver_config,
            "Subpath": subpath,
        }
        tmpfs: dict[str, Any] = {"SizeBytes": None if tmpfs_size is None else size(tmpfs_size), "Mode": tmpfs_mode}
        bind: dict[str, Any] = {"Propagation": propagation}
        field, options = {"volume": ("VolumeOptions", volume), "tmpfs": ("TmpfsOptions", tmpfs)}.get(
            type, ("BindOptions", bind)
        )
        if kept := {name: value for name, value in options.items() if value}:
            self[field] = kept


class DriverConfig(dict[str, Any]):
    """The driver of a volume that a mount makes."""

    def __init__(self, name: str, options: dict[str, str] | None = None) -> None:
        super().__init__(Name=name, **({"Options": options} if options else {}))


class IPAMPool(dict[str, Any]):
    """Addresses of a network."""

    def __init__(
        self,
        subnet: str | None = None,
        iprange: str | None = None,
        gateway: str | None = None,
        aux_addresses: dict[str, str] | None = None,
    ) -> None:
        super().__init__(Subnet=subnet, IPRange=iprange, Gateway=gateway, AuxiliaryAddresses=aux_addresses)


class IPAMConfig(dict[str, Any]):
    """Where a network's addresses come from."""

    def __init__(
        self, driver: str = "default", pool_configs: list[Any] | None = None, options: dict[str, str] | None = None
    ) -> None:
        super().__init__(Driver=driver, Config=pool_configs or [], **({"Options": options} if options else {}))


class EndpointConfig(dict[str, Any]):
    """How to join a network."""

    def __init__(
        self,
        version: str = "",
        aliases: list[str] | None = None,
        links: Any = None,
        ipv4_address: str | None = None,
        ipv6_address: str | None = None,
        link_local_ips: list[str] | None = None,
        driver_opt: dict[str, str] | None = None,
        mac_address: str | None = None,
    ) -> None:
        given: dict[str, Any] = {
            "Aliases": aliases,
            "Links": pairs_of(links),
            "DriverOpts": driver_opt,
            "MacAddress": mac_address,
        }
        addresses: dict[str, Any] = {
            "IPv4Address": ipv4_address,
            "IPv6Address": ipv6_address,
            "LinkLocalIPs": link_local_ips,
        }
        given["IPAMConfig"] = {name: value for name, value in addresses.items() if value} or None
        super().__init__({name: value for name, value in given.items() if value})


class NetworkingConfig(dict[str, Any]):
    """Several networks to join."""

    def __init__(self, endpoints_config: dict[str, Any] | None = None) -> None:
        super().__init__({"EndpointsConfig": endpoints_config} if endpoints_config else {})


def pairs_of(links: Any) -> list[str] | None:
    """Links as the API has them: "name:alias"."""
    if not links:
        return None
    rows = links.items() if isinstance(links, dict) else links
    return [row if isinstance(row, str) else f"{row[0]}:{row[1]}" if row[1] else row[0] for row in rows]


def binds_of(volumes: Any) -> list[str]:
    """{"/here": {"bind": "/there", "mode": "ro"}} or a list as the API's Binds."""
    if not isinstance(volumes, dict):
        return list(volumes)
    found = []
    for source, place in volumes.items():
        if not isinstance(place, dict):
            found.append(f"{source}:{place}:rw")
            continue
        mode = place.get("mode") or ("ro" if place.get("ro") else "rw")
        found.append(
            f"{source}:{place['bind']}:{mode}" + (f",{place['propagation']}" if "propagation" in place else "")
        )
    return found


def environment_of(given: Any) -> Any:
    """Variables as the API's Env; None unsets one that the image has."""
    if not isinstance(given, dict):
        return given
    return [name if value is None else f"{name}={value}" for name, value in given.items()]


def command_of(given: Any) -> Any:
    """A command as a list."""
    return words(given) if isinstance(given, str) else given
