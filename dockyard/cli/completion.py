"""Completion: the shell asks `dockyard __complete WORD…` what may stand in place of the last word.

The answer comes from the help texts (commands, flags, what kind of thing an argument is) and from the engine (its
names); each line of it is a word, and after a tab what it means.
"""

from __future__ import annotations

import re

from dockyard.cli.command_table import ABOUT, GLOBAL, OPTIONS, SHORT, SYNONYMS, WHOLE, load, names, shown
from dockyard.cli.errors import UsageError
from dockyard.cli.usage import flag_rows, summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from dockyard.cli.session import Session

# Bash splits words at ":" and "=" too: the line is split anew, and what bash has already is cut off the answers.
BASH = r"""
_dockyard() {
  local line=${COMP_LINE:0:COMP_POINT} current found IFS=$' \t\n'
  local -a words
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  current=${words[${#words[@]}-1]}
  found=$(dockyard __complete "${words[@]:1}" 2>/dev/null | cut -f1)
  IFS=$'\n'
  COMPREPLY=($(compgen -W "$found" -- "$current"))
  local breaks=${COMP_WORDBREAKS//[^:=]/} head
  if [[ -n $breaks && $current == *["$breaks"]* ]]; then
    head=${current%"${current##*["$breaks"]}"}
    COMPREPLY=("${COMPREPLY[@]#"$head"}")
  fi
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=:/] ]] && compopt -o nospace
  return 0
}
complete -o default -F _dockyard NAMES
"""
ZSH = r"""
#compdef NAMES
_dockyard() {
  local -a found names shown
  local line
  found=("${(@f)$(dockyard __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  for line in $found; do
    [[ -z $line ]] && continue
    names+=("${line%%$'\t'*}")
    shown+=("${line/$'\t'/  -- }")
  done
  if (( ${#names} )); then
    compadd -l -d shown -a names
  else
    _files
  fi
}
if [[ $funcstack[1] == _dockyard ]]; then _dockyard "$@"; else compdef _dockyard NAMES; fi
"""
FISH = r"""
function __dockyard_candidates
  set -l words (commandline -opc)[2..] (commandline -ct)
  set -l found (dockyard __complete $words 2>/dev/null)
  if test (count $found) -gt 0
    printf '%s\n' $found
  else
    __fish_complete_path (commandline -ct)
  end
end
for name in NAMES
  complete -c $name -f -a '(__dockyard_candidates)'
end
"""

SIGNALS = ("HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "STOP", "CONT", "WINCH")
CAPABILITIES = (
    "ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH "
    "FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN "
    "NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT "
    "SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM"
).split()
LOG_DRIVERS = ("fluentd", "gelf", "journald", "json-file", "local", "none", "syslog")
# the values of a flag, whatever the command
VALUES: dict[str, tuple[str, ...] | list[str]] = {
    "attach": ("stdin", "stdout", "stderr"),
    "cap-add": CAPABILITIES,
    "cap-drop": CAPABILITIES,
    "cgroupns": ("host", "private"),
    "ipc": ("none", "private", "shareable", "host", "container:"),
    "log-driver": LOG_DRIVERS,
    "log-level": ("debug", "info", "warn", "error", "fatal"),
    "pid": ("host", "container:"),
    "platform": ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386"),
    "pull": ("always", "missing", "never"),
    "restart": ("no", "always", "on-failure", "unless-stopped"),
    "security-opt": ("apparmor=", "label=", "no-new-privileges", "seccomp=", "systempaths=unconfined"),
    "signal": SIGNALS,
    "stop-signal": SIGNALS,
    "type": ("container", "image", "network", "volume"),
    "userns": ("host", "auto"),
    "uts": ("host",),
}
FILTERS: dict[str, str] = {
    "container ls": "ancestor= before= exited= expose= health= id= is-task= label= name= network= publish= since= "
    "status= volume=",
    "image ls": "before= dangling= label= reference= since= until=",
    "network ls": "dangling= driver= id= label= name= scope= type=",
    "volume ls": "dangling= driver= label= name=",
    "system events": "container= daemon= event= image= label= network= scope= type= volume=",
    "container prune": "label= label!= until=",
    "image prune": "label= label!= until=",
    "network prune": "label= label!= until=",
    "system prune": "label= label!= until=",
    "volume prune": "all= label= label!=",
}
# what filters may be equal to, where the engine does not know it better
FILTER_VALUES: dict[str, str] = {
    "all": "true false",
    "dangling": "true false",
    "driver": "bridge host ipvlan local macvlan null overlay",
    "event": "attach commit connect copy create destroy detach die disconnect exec_create exec_die exec_start export "
    "health_status import kill load mount oom pause prune pull push rename resize restart save start stop tag top "
    "unmount unpause untag update",
    "health": "healthy none starting unhealthy",
    "is-task": "true false",
    "scope": "global local swarm",
    "status": "created dead exited paused removing restarting running",
}
FILTER_NAMES = {
    "ancestor": "image",
    "container": "container",
    "image": "image",
    "network": "network",
    "volume": "volume",
}
FILTER_TYPES = {"network ls": "builtin custom", "system events": "container daemon image network volume"}
DRIVERS = {"network create": ["bridge", "ipvlan", "macvlan", "overlay"], "volume create": ["local"]}
RUNNING = ("attach", "exec", "kill", "pause", "stop", "top", "stats", "port")


def script(shell: str, names: Iterable[str] = ("dockyard",)) -> str:
    """The script for bash, zsh or fish, for a client that is called by any of `names`. Raises UsageError."""
    known = {"bash": BASH, "zsh": ZSH, "fish": FISH}
    if shell not in known:
        raise UsageError(f'unknown shell "{shell}": bash, zsh and fish are known')
    called = [name for name in names if re.fullmatch(r"[\w.-]+", name)]
    return known[shell].strip().replace("NAMES", " ".join(called))


def candidates(words: list[str]) -> list[str]:
    """What may stand in place of the last of `words`."""
    before, last = words[:-1], words[-1] if words else ""
    before, settings_given, pending = _without_options(before, OPTIONS)
    session = _session(settings_given)
    if pending:
        return _values("", pending, last, session)
    if not before:
        if last.startswith("-"):
            return _flags(OPTIONS)
        return sorted([f"{name}\t{text}" for name, text in {**ABOUT, **WHOLE}.items()] + [
            f"{name}\t{summary(load(*SHORT[name]))}" for name in SHORT
        ] + _plugins(session))  # fmt: skip
    group, *rest = before
    if group in WHOLE:
        # loaded as commands are: its own commands end in ours, of which one is completion
        whole: Any = __import__(f"dockyard.cli.{group}.completion", fromlist=["candidates"])
        found: list[str] = whole.candidates([*rest, last])
        return found
    if group in ABOUT:
        if not rest:
            return [f"{name}\t{summary(load(group, name))}" for name in shown(group)]
        name, *rest = rest
        name = SYNONYMS.get(name, name)
        if name not in names(group):
            return []
    elif group in SHORT:
        group, name = SHORT[group]
    else:
        from dockyard.cli import plugins

        path = plugins.find(session, group)
        return plugins.completions(session, path, words) if path is not None else []
    text: str = load(group, name).usage  # type: ignore[attr-defined]  # set by @usage
    arguments, _, pending = _without_options(rest, text, interspersed=True)
    command = f"{group} {name}".strip()
    if pending:
        return _values(command, pending, last, session)
    if last.startswith("--") and "=" in last:
        flag, _, value = last[2:].partition("=")
        return [f"--{flag}={word}" for word in _values(command, flag, value, session)]
    if last.startswith("-"):
        return _flags(text)
    return _arguments(command, text, arguments, last, session)


def _plugins(session: Session) -> list[str]:
    from dockyard.cli import plugins

    found = [one for one in plugins.installed(session) if not one.problem and one.name not in WHOLE]
    return [f"{plugin.name}\t{plugin.about}" for plugin in found]


def _without_options(words: list[str], text: str, *, interspersed: bool = False) -> tuple[list[str], list[str], str]:
    """The words that are no flags, those that are, and the flag whose value comes next."""
    kinds = {name: (kind, names[-1]) for names, kind in flag_rows(text) for name in names}
    plain: list[str] = []
    given: list[str] = []
    stop = text.partition("\n")[0].endswith(("[ARG...]", "[ps OPTIONS]"))
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if not word.startswith("-") or word == "-":
            if not interspersed or stop:
                return plain + words[index - 1 :], given, ""
            plain.append(word)
            continue
        given.append(word)
        name = word.lstrip("-") if word.startswith("--") else word[-1:]
        if "=" in word or not kinds.get(name, ("", ""))[0]:
            continue
        if index == len(words):
            return plain, given, kinds[name][1]
        given.append(words[index])
        index += 1
    return plain, given, ""


def _session(given: list[str]) -> Session:
    from dockyard.cli.session import Session
    from dockyard.cli.usage import Flags

    return Session(Flags(GLOBAL, ["--no-autostart", *given]))


def _flags(text: str) -> list[str]:
    """The long flags of a help text, and what they do."""
    found = []
    for line in text.partition("\n\nHidden:")[0].split("\n"):
        if line.startswith(("  -", "      --")):
            left, _, about = line[6:].partition("  ")
            found.append(f"--{left.split()[0].lstrip('-')}\t{about.strip()}")
    return found


def _values(command: str, flag: str, last: str, session: Session) -> list[str]:
    """What a flag's value may be; nothing when any file may."""
    if flag == "filter" and command in FILTERS:
        return _filters(command, last, session)
    if flag == "driver":
        return DRIVERS.get(command, [])
    if flag in ("network", "net"):
        containers = [f"container:{name}" for name in _plain("container", session)] if last.startswith("c") else []
        return [*_names("network", session), *containers, "container:"]
    if flag in ("volumes-from", "link"):
        return _names("container", session)
    if flag in ("ipc", "pid") and last.startswith("container:"):
        return [f"container:{name}" for name in _plain("container", session)]
    if flag == "volume" and not last.startswith(("/", ".", "~")):
        return [f"{name}:" for name in _plain("volume", session)]
    if flag in ("context", "from"):
        return _names("context", session)
    if flag == "format":
        return ["json", "table"]
    if flag == "type" and command != "inspect":
        return []
    return list(VALUES.get(flag, []))


def _filters(command: str, last: str, session: Session) -> list[str]:
    """The filters of a command, or what the one that is typed already may be equal to."""
    name, typed, _ = last.partition("=")
    if not typed or f"{name}=" not in FILTERS[command].split():
        return FILTERS[command].split()
    if name in FILTER_NAMES:
        found = _plain(FILTER_NAMES[name], session)
    else:
        found = (FILTER_TYPES.get(command, "") if name == "type" else FILTER_VALUES.get(name, "")).split()
    return [f"{name}={value}" for value in found]


def _inside(container: str, typed: str, session: Session) -> list[str]:
    """The paths in a container that begin with `typed`, as `cp` wants them; a folder that is alone has a slash."""
    from dockyard.cli.session import path

    def matches(pattern: str) -> list[str]:
        # (an engine that is not ours has no such door)
        return _answered(
            lambda: session.api.request("GET", path("/dockyard/glob", of=container, path=pattern)).json()["Matches"]
        )

    literal = re.sub(r"([*?\[])", r"[\1]", typed)
    found = matches(f"{literal}*")
    if len(found) == 1 and matches(f"{literal}*/*"):
        found = [f"{found[0]}/"]
    return [f"{container}:{name}" for name in found]


def _arguments(command: str, text: str, given: list[str], last: str, session: Session) -> list[str]:
    """What the next argument may be, as the usage line has it."""
    from dockyard.cli.usage import places

    line = text.partition("\n")[0]
    wanted = places(line.partition("[OPTIONS]")[2] or line[len(f"dockyard {command}") :])
    if not wanted:
        return []
    if command == "container cp":
        container, colon, typed = last.partition(":")
        if last.startswith(("/", ".", "~")):
            return []
        if colon:
            return _inside(container, typed or "/", session)
        return [f"{name}:" for name in _plain("container", session)]
    if command == "container port" and given:
        return []
    if command == "inspect":
        return [name for kind in ("container", "image", "network", "volume") for name in _names(kind, session)]
    place = wanted[min(len(given), len(wanted) - 1)]
    if len(given) >= len(wanted) and "..." not in place:
        return []
    word = place.strip("[].").split("[")[0].split("|")[0].rstrip(".")
    name = command.rpartition(" ")[2]
    state = "running" if name in RUNNING else {"start": "stopped", "unpause": "paused"}.get(name, "")
    kinds: dict[str, Callable[[], list[str]]] = {
        "CONTAINER": lambda: _names("container", session, state),
        "IMAGE": lambda: _names("image", session),
        "SOURCE_IMAGE": lambda: _names("image", session),
        "REPOSITORY": lambda: _names("image", session) if command == "image ls" else [],
        "NAME": lambda: _names("image", session) if command == "image push" else [],
        "NETWORK": lambda: [] if name == "create" else _names("network", session),
        "VOLUME": lambda: [] if name == "create" else _names("volume", session),
        "CONTEXT": lambda: [] if name in ("create", "import") else _names("context", session),
        "SHELL": lambda: ["bash", "zsh", "fish"],
    }
    found = kinds.get(word, list)()
    return [one for one in found if one.partition("\t")[0] not in given]


def _names(kind: str, session: Session, state: str = "") -> list[str]:
    """The names of all objects of a kind; none when the engine does not answer."""
    return _answered(lambda: _asked(kind, session, state))


def _answered(ask: Callable[[], Iterable[str]]) -> list[str]:
    from dockyard.client.errors import APIError, Unreachable

    try:
        return list(ask())
    except (APIError, Unreachable):
        return []


def _plain(kind: str, session: Session) -> list[str]:
    return [name.partition("\t")[0] for name in _names(kind, session)]


def _asked(kind: str, session: Session, state: str) -> Iterator[str]:
    from dockyard.cli.session import path

    def ask(place: str) -> Any:
        return session.api.request("GET", place).json() or []

    if kind == "context":
        yield from (meta["Name"] for meta in session.contexts.all())
    elif kind == "container":
        states = {"running": ["running"], "paused": ["paused"], "stopped": ["created", "exited"]}.get(state, [])
        for row in ask(path("/containers/json", all=True, filters={"status": states} if states else {})):
            yield f"{row['Names'][0].lstrip('/')}\t{row['Image']}, {row['Status']}"
    elif kind == "image":
        for row in ask("/images/json"):
            for name in row["RepoTags"] or []:
                if name != "<none>:<none>":
                    yield name
    elif kind == "volume":
        yield from (row["Name"] for row in ask("/volumes")["Volumes"] or [])
    elif kind == "network":
        for row in ask("/networks"):
            yield f"{row['Name']}\t{row['Driver']}"
