"""`version` and `info`: who we are, and what the engine says about itself."""

from __future__ import annotations

import sys

from dockyard.cli import output
from dockyard.cli.session import Session
from dockyard.cli.usage import Flags, usage
from dockyard.client.errors import APIError, Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What we speak; the engine may know newer ones.
API_VERSION = "1.51"


def _client(session: Session, server: dict[str, Any] | None) -> dict[str, Any]:
    import os
    import platform

    from dockyard.version import VERSION

    asked = os.environ.get("DOCKER_API_VERSION") or API_VERSION
    known = (server or {}).get("ApiVersion") or asked
    spoken = min(asked, known, key=lambda text: [int(part) if part.isdigit() else 0 for part in text.split(".")])
    machine = platform.machine()
    return {
        "Version": VERSION,
        "ApiVersion": spoken,
        "DefaultAPIVersion": API_VERSION,
        "GitCommit": VERSION,
        "GoVersion": f"none (Python {platform.python_version()})",
        "Os": "linux",
        "Arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine),
        "BuildTime": "",
        "Context": session.context,
    }


@usage(
    """
dockyard version [OPTIONS]

Show the version information

Options:
  -f, --format string   'json' or a Go template
"""
)
def version(session: Session, flags: Flags) -> int:
    """Prints the client's version and the engine's."""
    form = flags.text("format")
    if form and form != "json":
        output.parsed(form, 64, name="version")
    server, failure = _asked(session, "/version")
    client = _client(session, server)
    if form:
        named = {"Client": client, "Server": server}
        if form == "json" or server is not None or ".Server" not in form:
            output.one(named, form, name="version", kind="system.versionInfo")
        else:
            print()
    else:
        _print_version(client, server)
    return _after(failure)


def _asked(session: Session, place: str) -> tuple[dict[str, Any] | None, str]:
    """The engine's answer, or what is wrong with it."""
    try:
        found: dict[str, Any] = session.api.request("GET", place).json()
    except Unreachable as error:
        return None, str(error)
    except APIError as error:
        return None, f"Error response from daemon: {error}"
    return found, ""


def _after(failure: str) -> int:
    sys.stdout.flush()
    if failure:
        print(failure, file=sys.stderr)
    return 1 if failure else 0


def _print_version(client: dict[str, Any], server: dict[str, Any] | None) -> None:
    spoken = client["ApiVersion"]
    if spoken != client["DefaultAPIVersion"]:
        spoken += f" (downgraded from {client['DefaultAPIVersion']})"
    rows = ["Client:", f" Version:\t{client['Version']}", f" API version:\t{spoken}"]
    rows += [f" Go version:\t{client['GoVersion']}", f" Git commit:\t{client['GitCommit']}"]
    rows += [f" OS/Arch:\t{client['Os']}/{client['Arch']}", f" Context:\t{client['Context']}"]
    if server is not None:
        rows += ["", f"Server: {(server.get('Platform') or {}).get('Name', '')}".rstrip()]
        for component in server.get("Components") or []:
            rows.append(f" {component['Name']}:")
            details = component.get("Details") or {}
            if component["Name"] == "Engine":
                rows += _engine_rows(component["Version"], details)
            else:
                rows.append(f"  Version:\t{component['Version']}")
                rows += [f"  {key}:\t{value}" for key, value in sorted(details.items())]
    # the columns of a block of lines are aligned, as Docker's are: at least 20 wide
    for row in rows:
        name, tab, value = row.partition("\t")
        print(f"{name:<20}{value}" if tab else row)


def _engine_rows(version: str, details: dict[str, str]) -> list[str]:
    get = {**dict.fromkeys(("ApiVersion", "MinAPIVersion", "GoVersion", "GitCommit", "Os", "Arch"), ""), **details}
    return [
        f"  Version:\t{version}",
        f"  API version:\t{get['ApiVersion']} (minimum version {get['MinAPIVersion']})",
        f"  Go version:\t{get['GoVersion']}",
        f"  Git commit:\t{get['GitCommit']}",
        f"  Built:\t{_build_time(get.get('BuildTime', ''))}",
        f"  OS/Arch:\t{get['Os']}/{get['Arch']}",
        f"  Experimental:\t{get.get('Experimental', 'false')}",
    ]


def _build_time(text: str) -> str:
    """An RFC 3339 time as Wed Nov 25 01:42:42 2026."""
    import time

    moment = output.moment(text) if text[:4].isdigit() else 0.0
    return time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(moment)) if moment else text


@usage(
    """
dockyard info [OPTIONS]

Display system-wide information

Options:
  -f, --format string   'json' or a Go template
"""
)
def info(session: Session, flags: Flags) -> int:
    """Prints what the engine says about itself."""
    form = flags.text("format")
    if form and form != "json":
        output.parsed(form, 64)
    found, failure = _asked(session, "/info")
    from dockyard.cli.plugins import installed

    plugins = list(installed(session))
    client = {
        "Debug": session.settings.on("debug"),
        **_client(session, None),
        "Context": session.context,
        "Plugins": [plugin.document() for plugin in plugins if not plugin.problem],
        "Warnings": None,
    }
    if form:
        if found is None and form != "json" and "ClientInfo" not in form:
            print()
        else:
            named = {**(found or {}), "ClientInfo": client}
            if failure:
                named["ServerErrors"] = [failure]
            output.one(named, form, kind="system.dockerInfo")
        return _after(failure)
    print(f"Client:\n Version:    {client['Version']}\n Context:    {client['Context']}")
    print(f" Debug Mode: {_word(client['Debug'])}")
    usable = [plugin for plugin in plugins if not plugin.problem]
    if usable:
        print(" Plugins:")
    for plugin in usable:
        print(f"  {plugin.name}: {plugin.about} ({plugin.metadata['Vendor']})")
        if plugin.metadata.get("Version"):
            print(f"    Version:  {plugin.metadata['Version']}")
        print(f"    Path:     {plugin.path}")
    sys.stdout.flush()
    for plugin in plugins:
        if plugin.problem:
            print(f'WARNING: Plugin "{plugin.path}" is not valid: {plugin.problem}', file=sys.stderr)
    print("\nServer:")
    if found is None:
        sys.stdout.flush()
        print(failure, file=sys.stderr)
        return 1
    _print_info(found, debug=session.settings.on("debug"))
    sys.stdout.flush()
    for warning in found.get("Warnings") or []:
        print(warning, file=sys.stderr)
    return 0


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _line(found: dict[str, Any], label: str, key: str) -> None:
    """A line, unless there is nothing to say."""
    if found.get(key):
        print(f" {label}: {found[key]}")


def _print_info(found: dict[str, Any], *, debug: bool) -> None:
    print(f" Containers: {found['Containers']}")
    for name in ("Running", "Paused", "Stopped"):
        print(f"  {name}: {found['Containers' + name]}")
    print(f" Images: {found['Images']}")
    _line(found, "Server Version", "ServerVersion")
    _line(found, "Storage Driver", "Driver")
    for key, value in found.get("DriverStatus") or []:
        print(f"  {key}: {value}")
    _line(found, "Logging Driver", "LoggingDriver")
    _line(found, "Cgroup Driver", "CgroupDriver")
    _line(found, "Cgroup Version", "CgroupVersion")
    _print_plugins(found)
    print(f" Swarm: {(found.get('Swarm') or {}).get('LocalNodeState') or 'inactive'}")
    if found.get("Runtimes"):
        print(f" Runtimes: {' '.join(sorted(found['Runtimes']))}\n Default Runtime: {found['DefaultRuntime']}")
    print(f" Init Binary: {found.get('InitBinary', '')}")
    for label, key in (("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit")):
        print(f" {label} version: {(found.get(key) or {}).get('ID', '')}")
    _print_security(found.get("SecurityOptions") or [])
    _line(found, "Kernel Version", "KernelVersion")
    _line(found, "Operating System", "OperatingSystem")
    _line(found, "OSType", "OSType")
    _line(found, "Architecture", "Architecture")
    print(f" CPUs: {found['NCPU']}\n Total Memory: {output.binary_size(found['MemTotal'])}")
    _line(found, "Name", "Name")
    _line(found, "ID", "ID")
    print(f" Docker Root Dir: {found['DockerRootDir']}\n Debug Mode: {_word(found['Debug'])}")
    if found["Debug"] or debug:
        print(f"  File Descriptors: {found['NFd']}\n  Goroutines: {found['NGoroutines']}")
        print(f"  System Time: {found['SystemTime']}\n  EventsListeners: {found['NEventsListener']}")
    _line(found, "HTTP Proxy", "HttpProxy")
    _line(found, "HTTPS Proxy", "HttpsProxy")
    _line(found, "No Proxy", "NoProxy")
    if found.get("Labels"):
        print(" Labels:", *found["Labels"], sep="\n  ")
    print(f" Experimental: {_word(found['ExperimentalBuild'])}")
    _print_registries(found.get("RegistryConfig") or {})
    print(f" Live Restore Enabled: {_word(found['LiveRestoreEnabled'])}")
    if found.get("DefaultAddressPools"):
        print(" Default Address Pools:")
        for pool in found["DefaultAddressPools"]:
            print(f"   Base: {pool['Base']}, Size: {pool['Size']}")
    print()


def _print_plugins(found: dict[str, Any]) -> None:
    print(" Plugins:")
    for kind in ("Volume", "Network", "Authorization", "Log"):
        names = found["Plugins"].get(kind) or []
        if names or kind != "Authorization":
            print(f"  {kind}: {' '.join(names)}")
    if found.get("CDISpecDirs"):
        print(" CDI spec directories:", *found["CDISpecDirs"], sep="\n  ")


def _print_security(options: list[str]) -> None:
    if options:
        print(" Security Options:")
    for option in options:
        pairs = [pair.partition("=") for pair in option.split(",")]
        print(f"  {pairs[0][2] or pairs[0][0]}")
        for key, _, value in pairs[1:]:
            if key == "profile":
                print(f"   Profile: {value}")


def _print_registries(registries: dict[str, Any]) -> None:
    indexes = registries.get("IndexConfigs") or {}
    insecure = [name for name, entry in indexes.items() if not entry["Secure"]]
    insecure += registries.get("InsecureRegistryCIDRs") or []
    if insecure or indexes:
        print(" Insecure Registries:", *insecure, sep="\n  ")
    if registries.get("Mirrors"):
        print(" Registry Mirrors:", *registries["Mirrors"], sep="\n  ")
