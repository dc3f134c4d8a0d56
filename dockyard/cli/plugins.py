"""Plugins of docker's command line: programs `docker-NAME` (or `dockyard-NAME`) that are commands of ours, too.

A plugin tells of itself when it is called with `docker-cli-plugin-metadata`; as a command it gets all of our arguments
(docker/cli, cli-plugins/). It finds the engine as docker does, so it is told by DOCKER_HOST where ours is.
"""

from __future__ import annotations

import os
import re
import sys

from dockyard.client.http import DEFAULT_HOST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from dockyard.cli.session import Session

METADATA, HOOKS, COMPLETE = "docker-cli-plugin-metadata", "docker-cli-plugin-hooks", "__complete"
FOLDERS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
PREFIXES = ("dockyard-", "docker-")
REEXEC = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND"
PATIENCE = 10  # seconds, for what a plugin says of itself


class Plugin:
    """One program: `problem` says why it can't be used, "" when it can."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.problem = ""

    def ask(self) -> None:
        """Learn what it says of itself."""
        import json
        import subprocess

        try:
            done = subprocess.run([self.path, METADATA], capture_output=True, timeout=PATIENCE, check=True)
            told = json.loads(done.stdout)
        except (OSError, subprocess.SubprocessError) as error:
            self.problem = f"failed to fetch metadata: {error}"
            return
        except ValueError as error:
            self.problem = f"invalid metadata: {error}"
            return
        self.metadata = told if isinstance(told, dict) else {}
        if self.metadata.get("SchemaVersion") != "0.1.0":
            self.problem = f"plugin SchemaVersion {self.metadata.get('SchemaVersion')!r} is not valid, must be 0.1.0"
        elif not self.metadata.get("Vendor"):
            self.problem = "plugin metadata does not define a vendor"

    @property
    def about(self) -> str:
        """What it is, in a few words."""
        return str(self.metadata.get("ShortDescription") or "")

    def document(self) -> dict[str, Any]:
        """What `info` shows of it."""
        return {
            **self.metadata,
            "Name": self.name,
            "Path": self.path,
            **({"Err": self.problem} if self.problem else {}),
        }


def _folders(session: Session) -> list[str]:
    extra = session.config.get("cliPluginsExtraDirs")
    return [*(extra if isinstance(extra, list) else ()), os.path.join(session.config_folder, "cli-plugins"), *FOLDERS]


def find(session: Session, name: str) -> str | None:
    """The program of the plugin `name`, None when there is none."""
    if not re.fullmatch(r"[a-z][a-z0-9]*", name):
        return None
    for folder in _folders(session):
        for prefix in PREFIXES:
            path = os.path.join(folder, prefix + name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
    return None


def installed(session: Session) -> Iterator[Plugin]:
    """Every plugin, by name, asked what it is."""
    names = set()
    for folder in _folders(session):
        try:
            entries = os.listdir(folder)
        except OSError:
            continue
        names |= {entry.removeprefix(prefix) for entry in entries for prefix in PREFIXES if entry.startswith(prefix)}
    for name in sorted(names):
        path = find(session, name)
        if path is not None:
            plugin = Plugin(name, path)
            plugin.ask()
            yield plugin


def environment(session: Session) -> dict[str, str]:
    """What a plugin is told of us and of the engine."""
    told = {**os.environ, REEXEC: os.path.abspath(sys.argv[0])}
    if not session.host and session.context == "default":
        told["DOCKER_HOST"] = DEFAULT_HOST
    return told


def become(session: Session, path: str, arguments: list[str]) -> int:
    """Go on as a plugin's command; an engine of ours is started before if need be. Never returns."""
    session.connect()
    sys.stdout.flush()
    os.execve(path, [path, *arguments], environment(session))


def completions(session: Session, path: str, words: list[str]) -> list[str]:
    """What a plugin has to offer for the last of `words`; a line each, as our own (completion.py)."""
    import subprocess

    done = subprocess.run(
        [path, COMPLETE, *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=environment(session),
    )
    return [line for line in done.stdout.splitlines() if line and not line.startswith((":", "_activeHelp_"))]


# -- hooks


def after(session: Session, command: str, given: dict[str, str], arguments: list[str]) -> None:
    """Ask the plugins that config.json names for `command` what may be done next, and print it.

    Only where somebody reads it, and where the feature `hooks` is on, as with docker.
    """
    configured = session.config.get("plugins")
    if (
        not isinstance(configured, dict)
        or not _hooks_are_on(session)
        or not (sys.stdout.isatty() and sys.stderr.isatty())
    ):
        return
    lines = []
    for name, settings in configured.items():
        wanted = str(settings.get("hooks") or "") if isinstance(settings, dict) else ""
        matched = [one for one in wanted.split(",") if one and (command == one or command.startswith(one + " "))]
        path = find(session, name) if matched else None
        if path is not None:
            lines += _hook(path, matched[0], given, arguments)
    if lines:
        print("\n\033[1mWhat's next:\033[0m", *(f"    {line}" for line in lines), sep="\n", file=sys.stderr)


def _hooks_are_on(session: Session) -> bool:
    features = session.config.get("features")
    text = os.environ.get("DOCKER_CLI_HOOKS") or (features.get("hooks") if isinstance(features, dict) else "")
    return str(text).lower() in ("1", "t", "true")


def _hook(path: str, command: str, given: dict[str, str], arguments: list[str]) -> list[str]:
    import json
    import subprocess

    asked = json.dumps({"RootCmd": command, "Flags": given, "CommandError": ""})
    try:
        done = subprocess.run([path, HOOKS, asked], capture_output=True, timeout=PATIENCE, check=True)
        template = str(json.loads(done.stdout).get("Template") or "")
    except (OSError, subprocess.SubprocessError, ValueError, AttributeError):
        return []

    def word(found: re.Match[str]) -> str:
        match found[1]:
            case "command":
                return command
            case "flag" | "flagValue":
                return given.get((found[2] or "").strip('"'), "")
            case _:
                place = int(found[2] or "0")
                return arguments[place] if place < len(arguments) else ""

    text = re.sub(r'\{\{\s*(command|flag|flagValue|arg|argValue)(?:\s+("[^"]*"|\d+))?(?:\s+\.)?\s*\}\}', word, template)
    return text.split("\n") if text else []
