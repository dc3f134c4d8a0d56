"""Completion of `dockyard compose`: commands and flags by the help texts, services and profiles by the files."""

from __future__ import annotations

from dockyard.cli.compose.main import GRAMMAR, OPTIONS, grammar, load, shown
from dockyard.cli.errors import UsageError
from dockyard.cli.usage import Flags, flag_rows, summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.compose.model.project import Project

VALUES = {
    "ansi": ("auto", "never", "always"),
    "progress": ("auto", "tty", "plain", "json", "quiet"),
    "pull": ("always", "missing", "never"),
    "policy": ("always", "missing"),
    "rmi": ("local", "all"),
    "status": ("created", "dead", "exited", "paused", "removing", "restarting", "running"),
    "signal": ("SIGHUP", "SIGINT", "SIGKILL", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"),
    "protocol": ("tcp", "udp"),
    "format": ("table", "json"),
}
SERVICE_FLAGS = ("attach", "no-attach", "exit-code-from", "scale")


def candidates(words: list[str]) -> list[str]:
    """What may stand in place of the last of `words`, which follow `compose`."""
    before, last = words[:-1], words[-1] if words else ""
    position = _command_at(before)
    if position is None:
        pending = _pending(before, GRAMMAR)
        if pending == "profile":
            return _profiles(before)
        if pending:
            return list(VALUES.get(pending, ()))
        if last.startswith("-"):
            return _flags(OPTIONS)
        return [f"{name}\t{summary(load(name))}" for name in shown()]
    options, name, rest = before[:position], before[position], before[position + 1 :]
    name = {"list": "ls", "remove": "rm"}.get(name, name)
    if name not in shown():
        return []
    command = load(name)
    text = grammar(command)
    pending = _pending(rest, text)
    if pending in SERVICE_FLAGS:
        return _services(options)
    if pending:
        return ["yaml", "json"] if (name, pending) == ("config", "format") else list(VALUES.get(pending, ()))
    if last.startswith("-"):
        return _flags(text)
    line = text.partition("\n")[0]
    many = "SERVICE..." in line or "SERVICES" in line
    if "SERVICE" in line and (many or not _plain(rest, text)):
        return _services(options)
    return []


def _command_at(words: list[str]) -> int | None:
    """Where the command stands."""
    kinds = _kinds(GRAMMAR)
    index = 0
    while index < len(words):
        word = words[index]
        if not word.startswith("-"):
            return index
        name = word.lstrip("-")
        index += 2 if "=" not in word and kinds.get(name) else 1
    return None


def _kinds(text: str) -> dict[str, str]:
    return {name: kind for names, kind in flag_rows(text) for name in names}


def _pending(words: list[str], text: str) -> str:
    """The flag whose value comes next."""
    kinds = _kinds(text)
    full = {name: names[-1] for names, _ in flag_rows(text) for name in names}
    index = 0
    while index < len(words):
        word = words[index]
        name = word.lstrip("-")
        index += 1
        if word.startswith("-") and "=" not in word and kinds.get(name):
            if index == len(words):
                return full[name]
            index += 1
    return ""


def _plain(words: list[str], text: str) -> list[str]:
    """The words that are no flags and no flags' values."""
    kinds = _kinds(text)
    found = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if not word.startswith("-"):
            found.append(word)
        elif "=" not in word and kinds.get(word.lstrip("-")):
            index += 1
    return found


def _flags(text: str) -> list[str]:
    found = []
    for line in text.partition("\n\nHidden:")[0].split("\n"):
        if line.startswith(("  -", "      --")):
            left, _, about = line[6:].partition("  ")
            found.append(f"--{left.split()[0].lstrip('-')}\t{about.strip()}")
    return found


def _project(options: list[str]) -> Project | None:
    from dockyard.cli.compose.session import ComposeSession
    from dockyard.client.errors import ClientError
    from dockyard.compose.model.settings import load_project

    try:
        session = ComposeSession(None, Flags(GRAMMAR, [*options, "ps"]), Flags("dockyard compose ps", []))
        settings = session.project_settings()
        settings.warn = lambda text: None
        return load_project(settings, environment=False)
    except (ClientError, UsageError, OSError):
        return None  # there is nothing to be offered


def _services(options: list[str]) -> list[str]:
    project = _project(options)
    return sorted(project.all_services()) if project is not None else []


def _profiles(options: list[str]) -> list[str]:
    project = _project([word for word in options if word != "--profile"])
    if project is None:
        return []
    return sorted({name for service in project.all_services().values() for name in service.get("profiles") or ()})
