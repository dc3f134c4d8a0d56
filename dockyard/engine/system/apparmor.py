"""AppArmor for containers: the profile that each one gets, and the default one's rules, kept loaded.

As under Docker: `docker-default` unless another is named, none for a privileged container or on a host without
AppArmor. The names are Docker's too, since tools and habits look for them; a profile of that name that another engine
has loaded is left alone and used.
"""

import asyncio
import logging
import os
from pathlib import Path

from dockyard.errors import SystemFailure
from dockyard.linux import apparmor

log = logging.getLogger("dockyard.apparmor")

DEFAULT_PROFILE = "docker-default"
NO_PARSER = "AppArmor is enabled, but containers run unconfined: apparmor_parser is not installed"


class AppArmor:
    """Chooses profiles, and sees to it that the default one is there."""

    def __init__(self, exec_root: Path) -> None:
        # What we have had the kernel load, kept in memory as that is: only such a profile is ours to replace.
        self._loaded = exec_root / "apparmor-profile"
        self._entry = ""
        self.enabled = apparmor.is_enabled() and os.path.isdir(apparmor.FILES)
        self.confines = self.enabled and bool(apparmor.parser())

    async def open(self) -> None:
        """Load the default profile. A failure is only logged: it is told again by each start that needs the profile."""
        if self.enabled and not self.confines:
            log.warning(NO_PARSER)
        elif self.enabled:
            try:
                await asyncio.to_thread(self._bring_up_to_date)
            except OSError as error:
                log.error("cannot load the AppArmor profile %s: %s", DEFAULT_PROFILE, error)

    def profile(self, wanted: str, *, privileged: bool) -> str:
        """Which one a container runs under: a name, "unconfined", or "" where the kernel has no AppArmor.

        `wanted`: the name that was asked for, or "".
        """
        if not self.enabled:
            return ""
        if privileged:
            return apparmor.UNCONFINED
        return wanted or (DEFAULT_PROFILE if self.confines else apparmor.UNCONFINED)

    async def ensure(self, profile: str) -> None:
        """Load the default profile anew if that is the one and something has unloaded it since. Raises SystemFailure.

        An upgrade of the host's AppArmor, or aa-remove-unknown, drops every profile that is not in /etc/apparmor.d.
        """
        if profile != DEFAULT_PROFILE or (self._entry and os.path.exists(self._entry)):
            return
        try:
            await asyncio.to_thread(self._bring_up_to_date)
        except OSError as error:
            raise SystemFailure(
                f"AppArmor enabled on system but the {DEFAULT_PROFILE} profile could not be loaded: {error}"
            ) from error

    def _bring_up_to_date(self) -> None:
        """Load it unless another engine has, or we have in just this wording."""
        wanted = rules(DEFAULT_PROFILE, apparmor.own_profile())
        found = apparmor.entry(DEFAULT_PROFILE)
        ours, text = self._what_we_loaded()
        if not found or (found == ours and text != wanted):
            apparmor.load(wanted)
            found = apparmor.entry(DEFAULT_PROFILE)
            self._loaded.write_text(f"{found}\n{wanted}")
            log.info("loaded the AppArmor profile %s", DEFAULT_PROFILE)
        self._entry = found

    def _what_we_loaded(self) -> tuple[str, str]:
        """(the kernel's entry of it, its text)."""
        try:
            entry, _, text = self._loaded.read_text().partition("\n")
        except FileNotFoundError:
            return "", ""
        return entry, text


def rules(name: str, daemon: str) -> str:
    """The default profile as text: all is allowed but what reaches the host past the container's namespaces.

    `daemon` is the profile of the processes that send containers signals. Rules: apparmor.d(5). What is denied is so
    whatever capabilities the container has, and is at least all that Docker's profile denies.
    """
    written = [
        # In /proc a container may write about processes, and of the kernel's settings only those of shared memory.
        "/proc/*",
        *("/proc/" + others for others in _all_but("sys/", or_begin="0-9")),
        *("/proc/sys/" + others for others in _all_but("kernel/shm")),
    ]
    changed = ["/sys/" + others for others in _all_but("fs/cgroup/")]
    hidden = [
        "/proc/sysrq-trigger",
        "/proc/kcore",
        # the directories themselves, too
        "/sys/firmware/{,**}",
        "/sys/devices/virtual/powercap/{,**}",
        "/sys/kernel/security/{,**}",
    ]
    signallers = dict.fromkeys(("unconfined", daemon, "runc", "crun", name))
    lines = [
        "network,",
        "capability,",
        "file,",
        "umount,",
        # the host's processes, the runtimes where a distribution has given them profiles, and each other
        *(f"signal (receive) peer={peer}," for peer in signallers),
        "signal (receive) set=(exists),",
        f"signal (send) peer={name},",
        # who may look at us is said by their profile
        "ptrace (readby, tracedby),",
        f"ptrace (read, trace) peer={name},",
        "deny mount,",
        *(f"deny {path} w," for path in written),
        *(f"deny {path} wklx," for path in changed),
        *(f"deny {path} rwklx," for path in hidden),
    ]
    body = "".join(f"  {line}\n" for line in lines)
    return f"profile {name} flags=(attach_disconnected, mediate_deleted) {{\n{body}}}\n"


def _all_but(kept: str, *, or_begin: str = "") -> list[str]:
    """Globs that match all paths but those that begin with `kept`: AppArmor has no other way to say that.

    Those are left out, too, that begin with a character of the range `or_begin`.
    """
    found = []
    for end in range(len(kept)):
        found.append(f"{kept[:end]}[^{'' if end else or_begin}{kept[end]}]**")
        if end:
            found.append(kept[:end])
    return found
