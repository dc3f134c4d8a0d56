"""Services that other programs provide: `provider.type` names one, which is told to bring the service up or down.

docker/compose docs/extension.md: it says what it does as JSON on its standard output, and by variables what dependents
are to know.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING, Any

from dockyard.client.address import config_folder
from dockyard.compose.errors import ComposeError
from dockyard.compose.model.project import ordered
from dockyard.compose.run.progress import DONE, ERROR, WORKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dockyard.compose.run.application import Application

Tree = dict[str, Any]

PLUGINS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
_changing = threading.Lock()


def has_providers(application: Application) -> bool:
    """Whether some service of the project is provided by another program."""
    return any("provider" in service for service in application.project.services.values())


def run_provider(application: Application, name: str, command: str) -> None:
    """Have the service's program do `command`: "up" or "down". What it tells goes to the services that depend on it.

    Raises ComposeError.
    """
    provider: Tree = application.project.services[name]["provider"]
    program = _program(str(provider.get("type", "")))
    doing, done = ("Creating", "Created") if command == "up" else ("Removing", "Removed")
    progress = application.progress
    progress.event(name, doing)
    if application.engine.dry:
        progress.event(name, done)
        return
    environment = {**os.environ, **application.project.environment}
    words = _words(application, name, provider, program, command, environment)
    variables: dict[str, str] = {}
    try:
        with subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                for message in _messages(process.stdout.fileno()):
                    _take(application, name, message, variables)
            except BaseException:
                process.kill()
                raise
    except OSError as error:
        raise ComposeError(f"{program}: {(error.strerror or str(error)).lower()}") from None
    if process.returncode:
        said = f"exit status {process.returncode}"
        progress.event(name, said, ERROR)
        raise ComposeError(f"failed to {'create' if command == 'up' else 'remove'} service provider: {said}")
    progress.event(name, done, DONE)
    _tell_dependents(application, name, variables)


def _program(kind: str) -> str:
    """The plugin of docker's of that name, or a program. Raises ComposeError."""
    if kind == "compose":
        raise ComposeError("'compose' is not a valid provider type")
    for folder in (os.path.join(config_folder(), "cli-plugins"), *PLUGINS):
        path = os.path.join(folder, f"docker-{kind}")
        if os.access(path, os.X_OK):
            return path
    found = shutil.which(kind) if kind and "/" not in kind else None
    if found is None:
        raise ComposeError(f'exec: "{kind}": executable file not found in $PATH')
    return found


def _words(
    application: Application, name: str, provider: Tree, program: str, command: str, environment: dict[str, str]
) -> list[str]:
    """The command line. Raises ComposeError when a parameter is missing that the program says it needs."""
    known = _metadata(program, environment)
    parameters = {one.get("name"): one for one in ((known.get(command) or {}).get("parameters") or ())}
    options = provider.get("options") or {}
    for key, one in parameters.items():
        if one.get("required") and key not in options:
            raise ComposeError(f'required parameter "{key}" is missing from provider "{provider["type"]}" definition')
    words = [program, "compose", f"--project-name={application.project.name}", command]
    for key, values in options.items():
        if not known or key in parameters:
            words += [f"--{key}={value}" for value in (values if isinstance(values, list) else [values])]
    return [*words, name]


def _metadata(program: str, environment: dict[str, str]) -> Tree:
    """What a program says that it takes; nothing when it does not say."""
    done = subprocess.run(
        [program, "compose", "metadata"], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    try:
        found = json.loads(done.stdout) if not done.returncode else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found else {}


def _messages(fd: int) -> Iterator[Tree]:
    """JSON objects one after the other, as they come. Raises ComposeError."""
    decoder, pending = json.JSONDecoder(), ""
    while piece := os.read(fd, 1 << 16):
        pending = (pending + piece.decode(errors="replace")).lstrip()
        while pending:
            try:
                message, end = decoder.raw_decode(pending)
            except ValueError:
                break  # the rest is still to come
            pending = pending[end:].lstrip()
            if not isinstance(message, dict):
                raise ComposeError(f"invalid response from plugin: {message}")
            yield message
    if pending:
        raise ComposeError(f"invalid response from plugin: {pending[:200]}")


def _take(application: Application, name: str, message: Tree, variables: dict[str, str]) -> None:
    kind, text = message.get("type"), str(message.get("message", ""))
    if kind == "error":
        application.progress.event(name, text, ERROR)
        raise ComposeError(text)
    if kind == "info":
        application.progress.event(name, text, WORKING)
    elif kind == "setenv":
        key, equals, value = text.partition("=")
        if not equals:
            raise ComposeError(f"invalid response from plugin: {text}")
        variables[key] = value
    elif kind != "debug":
        raise ComposeError(f"invalid response from plugin: {kind}")


def _tell_dependents(application: Application, name: str, variables: dict[str, str]) -> None:
    if not variables:
        return
    told = {f"{name.upper()}_{key}": value for key, value in variables.items()}
    services = application.project.services
    with _changing:
        for other, service in list(services.items()):
            if name in (service.get("depends_on") or {}):
                services[other] = ordered({**service, "environment": {**(service.get("environment") or {}), **told}})
