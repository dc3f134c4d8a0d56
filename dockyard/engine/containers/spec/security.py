"""What a container may do: its capabilities, `--security-opt`, and seccomp profiles in Docker's format."""

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dockyard.errors import InvalidParameter
from dockyard.linux import capabilities
from dockyard.linux.seccomp import native_architectures
from dockyard.oci.runtime_spec import Seccomp, SeccompArg, SeccompRule
from dockyard.runtime.spec import defaults

# -- capabilities


def granted_capabilities(add: Sequence[str] | None, drop: Sequence[str] | None, privileged: bool) -> list[str]:
    """The default set with `--cap-add` and `--cap-drop`. Raises InvalidParameter for a name the kernel lacks."""
    added, dropped = _capability_names("CapAdd", add), _capability_names("CapDrop", drop)
    if privileged:
        return capabilities.held()
    everything = capabilities.held()
    base = list(defaults.DEFAULT_CAPABILITIES)
    if "ALL" in added:
        base = everything
    elif "ALL" in dropped:
        base = []
    kept = [name for name in base if name not in dropped]
    return kept + [name for name in added if name != "ALL" and name not in kept]


def _capability_names(field: str, given: Sequence[str] | None) -> list[str]:
    names = []
    for word in given or []:
        name = word.upper()
        if name != "ALL":  # CAP_ALL is none
            name = name if name.startswith("CAP_") else f"CAP_{name}"
            if name not in capabilities.NUMBERS:
                raise InvalidParameter(f'invalid {field}: unknown capability: "{name}"')
        names.append(name)
    return names


# -- --security-opt


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """`--security-opt`, parsed. `seccomp` is "" for the default, "unconfined" or a profile's JSON.

    `no_new_privileges` and `writable_cgroups` are None when nothing is said about them.
    """

    no_new_privileges: bool | None = None
    seccomp: str = ""
    apparmor: str = ""
    unmasked: bool = False
    writable_cgroups: bool | None = None


def security_options(given: Sequence[str] | None) -> SecurityOptions:
    """Parse `--security-opt`. Raises InvalidParameter for an unknown one."""
    no_new_privileges = writable_cgroups = None
    unmasked = False
    seccomp = apparmor = ""
    for option in given or []:
        if option in ("no-new-privileges", "writable-cgroups", "disable"):
            key, value = option, "true"
        else:
            # key=value, or, as of old, key:value
            key, separator, value = option.partition("=") if "=" in option else option.partition(":")
            if not separator:
                raise InvalidParameter(f'invalid --security-opt 1: "{option}"')
        if key == "no-new-privileges":
            no_new_privileges = _boolean(option, value)
        elif key == "writable-cgroups":
            writable_cgroups = _boolean(option, value)
        elif key == "seccomp":
            seccomp = value
        elif key == "apparmor":
            apparmor = value
        elif key == "systempaths" and value == "unconfined":
            unmasked = True
        elif key not in ("label", "disable"):  # SELinux labels: nothing to do on a kernel without it, as in Docker
            raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
    return SecurityOptions(no_new_privileges, seccomp, apparmor, unmasked, writable_cgroups)


def _boolean(option: str, value: str) -> bool:
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidParameter(f'invalid --security-opt 2: "{option}"')


# -- seccomp profiles


class _Conditions(msgspec.Struct, rename="camel"):
    caps: list[str] | None = None
    arches: list[str] | None = None
    min_kernel: str = ""


class _ProfileRule(msgspec.Struct, rename="camel"):
    names: list[str] | None = None
    name: str = ""
    action: str = ""
    errno_ret: int | None = None
    args: list[dict[str, int | str]] | None = None
    includes: _Conditions | None = None
    excludes: _Conditions | None = None


class _Architecture(msgspec.Struct, rename="camel"):
    architecture: str = ""
    sub_architectures: list[str] | None = None


class _Profile(msgspec.Struct, rename="camel"):
    default_action: str = ""
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    arch_map: list[_Architecture] | None = None
    flags: list[str] | None = None
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[_ProfileRule] | None = None


# Go's names of machines, which profiles use in conditions, for the kernel's.
_MACHINES = {
    "x86_64": ("amd64", "x86_64"),
    "aarch64": ("arm64", "aarch64"),
    "armv7l": ("arm",),
    "ppc64le": ("ppc64le",),
    "riscv64": ("riscv64",),
    "s390x": ("s390x",),
}


def seccomp_text(wanted: str) -> str:
    """A profile's JSON, given as that or by the path of its file. Raises InvalidParameter."""
    if wanted.lstrip().startswith("{"):
        return wanted
    try:
        return Path(wanted).read_text()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidParameter(f"opening seccomp profile ({wanted}) failed: {reason}") from None


def seccomp_profile(text: str, granted: Sequence[str]) -> Seccomp:
    """A profile in Docker's format for a container with these capabilities. Raises InvalidParameter."""
    try:
        profile = msgspec.json.decode(text, type=_Profile)
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"decoding seccomp profile failed: {error}") from None
    if profile.architectures and profile.arch_map:
        raise InvalidParameter("use either 'architectures' or 'archMap' in the seccomp profile, not both")
    rules = []
    for rule in profile.syscalls or []:
        if rule.name and rule.names:
            raise InvalidParameter("use either 'name' or 'names' in a rule of the seccomp profile, not both")
        if not _applies(rule, granted):
            continue
        try:
            arguments = [
                SeccompArg(
                    index=int(argument.get("index", 0)),
                    value=int(argument.get("value", 0)),
                    value_two=int(argument.get("valueTwo", 0)),
                    op=str(argument.get("op", "SCMP_CMP_EQ")),
                )
                for argument in rule.args or []
            ]
        except ValueError as error:
            raise InvalidParameter(f"decoding seccomp profile failed: {error}") from None
        rules.append(SeccompRule(rule.names or [rule.name], rule.action, rule.errno_ret, arguments))
    return Seccomp(
        default_action=profile.default_action,
        default_errno_ret=profile.default_errno_ret,
        architectures=_architectures(profile),
        flags=profile.flags,
        listener_path=profile.listener_path,
        listener_metadata=profile.listener_metadata,
        syscalls=rules,
    )


def _architectures(profile: _Profile) -> list[str]:
    """Those it lists; with a map, this machine's and what runs on it too."""
    if profile.architectures:
        return profile.architectures
    native = native_architectures()
    for entry in profile.arch_map or []:
        if native and entry.architecture == native[0]:
            return [entry.architecture, *(entry.sub_architectures or [])]
    return native


def _applies(rule: _ProfileRule, granted: Sequence[str]) -> bool:
    """Whether a rule's conditions hold: capabilities, machine and the kernel's age."""
    wanted, unwanted = rule.includes or _Conditions(), rule.excludes or _Conditions()
    machine = _MACHINES.get(platform.machine(), (platform.machine(),))
    if not all(name in granted for name in wanted.caps or []) or any(name in granted for name in unwanted.caps or []):
        return False
    if wanted.arches and not any(name in wanted.arches for name in machine):
        return False
    if unwanted.arches and any(name in unwanted.arches for name in machine):
        return False
    if wanted.min_kernel and _kernel() < _version(wanted.min_kernel):
        return False
    return not (unwanted.min_kernel and _kernel() >= _version(unwanted.min_kernel))


def _kernel() -> tuple[int, int]:
    return _version(os.uname().release)


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", text)
    if found is None:
        raise InvalidParameter(f"decoding seccomp profile failed: invalid kernel version {text!r}")
    return int(found[1]), int(found[2])
