"""GET /_ping, /version, /info, /system/df and POST /auth."""

import asyncio
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from dockyard import errors, web
from dockyard.api.router import (
    NEWEST_VERSION,
    OLDEST_VERSION,
    Call,
    Route,
    json_response,
    version_text,
)
from dockyard.api.services import Services
from dockyard.engine.containers.logs.options import LOG_DRIVERS
from dockyard.engine.containers.spec import cdi
from dockyard.engine.system import runtimes
from dockyard.engine.system.apparmor import NO_PARSER
from dockyard.version import VERSION

# GOARCH's names, which the API speaks, for uname's.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64", "ppc64le": "ppc64le"}

# What `/version` calls this engine's release for clients that compare Docker versions.
DOCKER_VERSION = "28.2.2"


def routes(services: Services) -> list[Route]:
    """Operations about the engine itself."""
    system = System(services)
    return [
        Route("GET", "/_ping", system.ping),
        Route("HEAD", "/_ping", system.ping),
        Route("GET", "/version", system.version),
        Route("GET", "/info", system.info),
        Route("GET", "/system/df", system.disk_usage),
        Route("POST", "/auth", system.auth),
    ]


def rfc3339(time_ns: int) -> str:
    """UNIX nanoseconds as 2006-01-02T15:04:05.999999999Z."""
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % 1_000_000_000:09d}Z"


class Credentials(msgspec.Struct, rename="lower"):
    """The body of POST /auth."""

    username: str = ""
    password: str = ""
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = ""


class System:
    """Handlers of the operations about the engine itself."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def ping(self, call: Call) -> web.StreamResponse:
        headers = {
            "Builder-Version": "2",
            "Dockyard-Version": VERSION,  # whose API goes beyond Docker's
            "Swarm": "inactive",
            "Cache-Control": "no-cache, no-store, must-revalidate",
            "Pragma": "no-cache",
        }
        body = b"" if call.http.method == "HEAD" else b"OK"
        return web.Response(200, headers, "text/plain; charset=utf-8", body)

    async def version(self, call: Call) -> web.StreamResponse:
        system = self._services.system
        host = system.host
        details = {
            "ApiVersion": version_text(NEWEST_VERSION),
            "MinAPIVersion": version_text(OLDEST_VERSION),
            "Arch": ARCHITECTURES.get(host.architecture, host.architecture),
            "Os": "linux",
            "KernelVersion": host.kernel,
            "GitCommit": VERSION,
            "GoVersion": "none (Python)",
            "BuildTime": _build_time(),
            "Experimental": str(system.config.experimental).lower(),
        }
        return json_response(
            {
                "Platform": {"Name": f"Dockyard {VERSION}"},
                "Components": [
                    {"Name": "Engine", "Version": DOCKER_VERSION, "Details": details},
                    {"Name": "dockyard-runc", "Version": VERSION, "Details": {"GitCommit": VERSION}},
                ],
                "Version": DOCKER_VERSION,
                **{key: value for key, value in details.items() if key != "Experimental"},
                **({"Experimental": True} if system.config.experimental else {}),
            }
        )

    async def info(self, call: Call) -> web.StreamResponse:
        services = self._services
        system = services.system
        config, host = system.config, system.host
        states = [container.state.status for container in services.containers.all() if not container.hidden]
        driver = services.layers.driver
        v1 = host.cgroup_version == 1
        directories = config.cdi_spec_dirs or list(cdi.DEFAULT_DIRECTORIES)
        devices = (await asyncio.to_thread(cdi.read_catalogue, directories)).devices
        shown: dict[str, Any] = {
            "ID": system.id,
            "Containers": len(states),
            "ContainersRunning": states.count("running"),
            "ContainersPaused": states.count("paused"),
            "ContainersStopped": sum(state not in ("running", "paused") for state in states),
            "Images": len(services.images.all()),
            "Driver": driver.name,
            "DriverStatus": [list(row) for row in driver.status()],
            "Plugins": {
                "Volume": ["local"],
                "Network": ["bridge", "host", "ipvlan", "macvlan", "null", "overlay"],
                "Authorization": None,
                "Log": [name for name in LOG_DRIVERS if name != "none"],
            },
            "MemoryLimit": True,
            "SwapLimit": not v1 or Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
            "CpuCfsPeriod": True,
            "CpuCfsQuota": True,
            "CPUShares": True,
            "CPUSet": True,
            "PidsLimit": True,
            "IPv4Forwarding": _reads("/proc/sys/net/ipv4/ip_forward") == "1",
            "Debug": config.debug,
            "NFd": _count("/proc/self/fd"),
            "OomKillDisable": v1,
            "NGoroutines": len(asyncio.all_tasks()),
            "SystemTime": rfc3339(time.time_ns()),
            "LoggingDriver": config.log_driver,
            "CgroupDriver": "systemd" if config.systemd_cgroups else "cgroupfs",
            "CgroupVersion": str(host.cgroup_version),
            "NEventsListener": services.events.listeners,
            "KernelVersion": host.kernel,
            "OperatingSystem": host.operating_system,
            "OSVersion": host.os_version,
            "OSType": "linux",
            "Architecture": host.architecture,
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": {
                "AllowNondistributableArtifactsCIDRs": None,
                "AllowNondistributableArtifactsHostnames": None,
                "InsecureRegistryCIDRs": [
                    "::1/128",
                    "127.0.0.0/8",
                    *(name for name in config.insecure_registries if "/" in name),
                ],
                "IndexConfigs": {
                    "docker.io": {
                        "Name": "docker.io",
                        "Mirrors": config.registry_mirrors,
                        "Secure": True,
                        "Official": True,
                    },
                    **{
                        name: {"Name": name, "Mirrors": [], "Secure": False, "Official": False}
                        for name in config.insecure_registries
                        if "/" not in name
                    },
                },
                "Mirrors": config.registry_mirrors,
            },
            "NCPU": host.cpus,
            "MemTotal": host.memory,
            "GenericResources": None,
            "DockerRootDir": config.data_root,
            "HttpProxy": _shown_proxy("HTTP_PROXY"),
            "HttpsProxy": _shown_proxy("HTTPS_PROXY"),
            "NoProxy": os.environ.get("NO_PROXY", ""),
            "Name": host.name,
            "Labels": config.labels,
            "ExperimentalBuild": config.experimental,
            "ServerVersion": DOCKER_VERSION,
            "Runtimes": {
                name: {"path": runtime.path, **({"runtimeArgs": runtime.arguments} if runtime.arguments else {})}
                for name, runtime in runtimes.listed(config).items()
            },
            "DefaultRuntime": config.default_runtime,
            "Swarm": {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": False,
                "Error": "",
                "RemoteManagers": None,
            },
            "LiveRestoreEnabled": config.live_restore,
            "Isolation": "",
            "InitBinary": "docker-init",
            "ContainerdCommit": {"ID": "", "Expected": ""},
            "RuncCommit": {"ID": VERSION, "Expected": VERSION},
            "InitCommit": {"ID": "", "Expected": ""},
            "SecurityOptions": [
                *(["name=apparmor"] if self._services.system.apparmor.confines else []),
                "name=seccomp,profile=" + (config.seccomp_profile or "builtin"),
                *(["name=userns"] if config.userns_remap else []),
                *([] if v1 else ["name=cgroupns"]),
            ],
            "DefaultAddressPools": [{"Base": pool.base, "Size": pool.size} for pool in config.default_address_pools],
            "CDISpecDirs": directories,
            "DiscoveredDevices": [{"Source": "cdi", "ID": name} for name in sorted(devices)],
            "Warnings": self._warnings(),
        }
        return json_response(_info_for(call.version, shown, v1=v1))

    def _warnings(self) -> list[str] | None:
        config, apparmor = self._services.system.config, self._services.system.apparmor
        missing = "TLS client verification" if config.tls else "encryption"
        found = [
            f"[DEPRECATION NOTICE]: API is accessible on {address} without {missing}."
            for address in config.listeners
            if address.startswith("tcp://") and not config.tlsverify
        ]
        if apparmor.enabled and not apparmor.confines:
            found.append(f"WARNING: {NO_PARSER}")
        return found or None

    async def disk_usage(self, call: Call) -> web.StreamResponse:
        kinds = {"container", "image", "volume", "build-cache"}
        wanted = set(call.texts("type")) if call.version >= (1, 42) and "type" in call.query else kinds
        if wanted - kinds:
            raise errors.InvalidParameter(f"unknown object type: {min(wanted - kinds)}")
        from dockyard.api.disk_usage import disk_usage

        return json_response(await disk_usage(self._services, wanted, call.version))

    async def auth(self, call: Call) -> web.StreamResponse:
        credentials = await call.body(Credentials)
        token = await self._services.images.login(
            credentials.serveraddress, credentials.username, credentials.password, credentials.identitytoken
        )
        return json_response({"Status": "Login Succeeded", "IdentityToken": token})


def _info_for(version: tuple[int, int], shown: dict[str, Any], *, v1: bool) -> dict[str, Any]:
    """GET /info as each version of the API shows it (moby api/docs/CHANGELOG.md)."""
    if not shown["DefaultAddressPools"]:
        del shown["DefaultAddressPools"]
    if version < (1, 25):
        shown["ExecutionDriver"] = "<not supported>"
        # "name=seccomp,profile=builtin" is what later versions have
        shown["SecurityOptions"] = [option.split(",")[0].removeprefix("name=") for option in shown["SecurityOptions"]]
    if version < (1, 42) and v1:
        shown["KernelMemory"] = shown["KernelMemoryTCP"] = True
    if version < (1, 50):
        shown["BridgeNfIptables"] = shown["BridgeNfIp6tables"] = False
        del shown["DiscoveredDevices"]
    if version >= (1, 49):
        shown["FirewallBackend"] = {"Driver": "nftables"}
        for name in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            shown[name] = {"ID": shown[name]["ID"]}
    if version >= (1, 47):
        for name in ("AllowNondistributableArtifactsCIDRs", "AllowNondistributableArtifactsHostnames"):
            shown["RegistryConfig"].pop(name)
    return shown


def _reads(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _count(path: str) -> int:
    return sum(1 for _ in Path(path).iterdir())


def _build_time() -> str:
    """When this code was installed."""
    return rfc3339(int(Path(__file__).stat().st_mtime) * 1_000_000_000)


def _shown_proxy(name: str) -> str:
    """A proxy as others may see it: without the password in its URL."""
    scheme, _, rest = os.environ.get(name, "").rpartition("://")
    login, _, place = rest.rpartition("@")
    return (f"{scheme}://" if scheme else "") + ("xxxxx:xxxxx@" if login else "") + place
