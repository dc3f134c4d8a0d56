"""AppArmor: whether the kernel confines by it, which profiles it holds, and giving it another.

Interface: apparmor(7); the kernel's securityfs files below FILES; apparmor_parser(8), which turns a profile's text into
what the kernel takes.
"""

import os

from dockyard.linux import recorder

FILES = "/sys/kernel/security/apparmor"
UNCONFINED = "unconfined"
# Where distributions have it: not in the PATH of everyone who may start a daemon.
PARSERS = ("/usr/sbin/apparmor_parser", "/sbin/apparmor_parser", "/usr/bin/apparmor_parser")
PATIENCE = 60.0  # how long the parser may take, s: it needs 0.1


def is_enabled() -> bool:
    """Whether the kernel confines by AppArmor profiles."""
    try:
        with open("/sys/module/apparmor/parameters/enabled") as answer:
            return answer.read(1) == "Y"
    except OSError:
        return False


def parser() -> str:
    """The path of apparmor_parser, or "" when it is not installed."""
    return next((path for path in PARSERS if os.access(path, os.X_OK)), "")


def own_profile() -> str:
    """The profile that confines this process; "unconfined" for none."""
    for path in ("/proc/self/attr/apparmor/current", "/proc/self/attr/current"):
        try:
            with open(path) as file:
                # a profile in a mode is "name (enforce)"
                return file.read().strip("\n\0").rpartition(" (")[0] or UNCONFINED
        except OSError:
            continue
    return UNCONFINED


def entry(name: str) -> str:
    """The kernel's directory about the loaded profile `name`; "" when there is none of that name. Raises OSError."""
    profiles = f"{FILES}/policy/profiles"
    for found in os.listdir(profiles):
        # its name, with what a file's name can't have replaced, and a number that grows with every load
        try:
            with open(f"{profiles}/{found}/name") as file:
                if file.read().rstrip("\n") == name:
                    return f"{profiles}/{found}"
        except FileNotFoundError:  # it has been removed meanwhile
            continue
    return ""


def load(text: str) -> None:
    """Have the kernel confine by the profiles of `text`, and those of their names that it had replaced.

    Processes that run under a replaced one are under the new one at once. Raises OSError with what the parser says.
    """
    import subprocess  # here: shims share this module, and need none of that

    # without its cache: that is the administrator's, and the file system may be read-only
    command = [parser() or "apparmor_parser", "--skip-cache", "--replace", "--quiet"]
    recorder.note("execute", *command)
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"apparmor_parser takes more than {PATIENCE:g} s") from None
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise OSError(f"apparmor_parser: {said or f'exit status {done.returncode}'}")
