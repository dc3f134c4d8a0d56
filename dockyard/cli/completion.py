"""Completion scripts: the shell asks `dockyard __complete WORD…` what may come next, as the help texts know it."""

from __future__ import annotations

from dockyard.cli.usage import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.cli.session import Session

BASH = r"""
_dockyard() {
  local IFS=$'\n'
  COMPREPLY=($(compgen -W "$(dockyard __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _dockyard dockyard
"""  # noqa: E501 (a line of shell)
ZSH = r"""
#compdef dockyard
_dockyard() {
  local -a found
  found=("${(@f)$(dockyard __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  compadd -a found || _files
}
compdef _dockyard dockyard
"""
FISH = r"""
complete -c dockyard -a '(dockyard __complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
"""


def script(shell: str) -> str:
    """The script for bash, zsh or fish. Raises UsageError."""
    known = {"bash": BASH, "zsh": ZSH, "fish": FISH}
    if shell not in known:
        raise UsageError("Usage:  dockyard completion bash|zsh|fish")
    return known[shell].strip()


def candidates(words: list[str], session: Session | None) -> list[str]:
    """What may stand in place of the last of `words`: commands, flags, or names that the engine knows."""
    from dockyard.cli.main import COMMANDS, SHORT, load, names

    words, last = words[:-1], words[-1] if words else ""
    if not words:
        return sorted({*COMMANDS, *SHORT, "completion"})
    group, rest = words[0], words[1:]
    if group in COMMANDS and not rest:
        return names(group)
    if group in COMMANDS and rest[0] in names(group):
        command = load(group, rest[0])
    elif group in SHORT:
        command = load(*SHORT[group])
    else:
        return []
    text: str = command.usage  # type: ignore[attr-defined]  # set by @usage
    if last.startswith("-"):
        from dockyard.cli.usage import flag_rows

        return [f"--{names[-1]}" for names, _ in flag_rows(text)]
    return _objects(text.partition("\n")[0], session) if session is not None else []


def _objects(line: str, session: Session) -> list[str]:
    def ask(place: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = session.api.request("GET", place).json()
        return found

    if "CONTAINER" in line:
        return [str(name).lstrip("/") for row in ask("/containers/json?all=1") for name in _list(row["Names"])]
    if "IMAGE" in line:
        return [str(name) for row in ask("/images/json") for name in _list(row["RepoTags"])]
    if "VOLUME" in line:
        found = session.api.request("GET", "/volumes").json()["Volumes"] or []
        return [volume["Name"] for volume in found]
    if "NETWORK" in line:
        return [str(row["Name"]) for row in ask("/networks")]
    return []


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
