"""What every command works with: the connection to the engine, which is started if need be."""

from __future__ import annotations

import os
import sys

from dockyard.cli.errors import Failure
from dockyard.client.errors import APIError, Unreachable
from dockyard.client.http import DEFAULT_HOST, Connection
from dockyard.client.urls import path as path
from dockyard.client.urls import quote as quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dockyard.cli.contexts import ContextStore
    from dockyard.cli.usage import Flags


class Session:
    """One run of the command line."""

    def __init__(self, settings: Flags) -> None:
        """`settings`: the options before the command."""
        self.settings = settings
        self.config_folder = (
            settings.text("config") or os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
        )
        self._config: dict[str, Any] | None = None
        self._api: Connection | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The client's config.json."""
        if self._config is None:
            from dockyard.client.config_file import load
            from dockyard.client.errors import CredentialsError

            try:
                self._config = load(self.config_folder)
            except CredentialsError as error:
                print(f"WARNING: {error}", file=sys.stderr)
                self._config = {}
        return self._config

    def setting(self, name: str) -> str:
        """A text of the client's config.json, such as psFormat; "" when it is not there."""
        return str(self.config.get(name) or "")

    @property
    def host(self) -> str:
        """The engine's address as -H or the environment has it; "" when neither has."""
        given = self.settings.all("host")
        if len(given) > 1:
            raise Failure("Failed to initialize: unable to resolve docker endpoint: Specify only one -H")
        if given and self.settings.given("context"):
            raise Failure("conflicting options: cannot specify both --host and --context")
        return given[0] if given else os.environ.get("DOCKYARD_HOST") or os.environ.get("DOCKER_HOST") or ""

    @property
    def context(self) -> str:
        """The name of the context in use."""
        if self.settings.given("context"):
            return self.settings.text("context")
        if self.host:
            return "default"
        return os.environ.get("DOCKER_CONTEXT") or self.setting("currentContext") or "default"

    @property
    def contexts(self) -> ContextStore:
        """The contexts, with the engine that we talk to without one as `default`."""
        from dockyard.cli.contexts import ContextStore

        return ContextStore(self.config_folder, self.host or DEFAULT_HOST)

    @property
    def api(self) -> Connection:
        """The connection to the engine, which is started if it is ours and none answers."""
        return self.connect()

    def connect(self) -> Connection:
        """See that there is an engine, if it is ours to start."""
        if self._api is None:
            self._api = self._connect()
        return self._api

    def _connect(self) -> Connection:
        host, context = self.host, self.context
        tls = None
        autostart = not host and context == "default" and not self.settings.on("no-autostart")
        if context != "default":
            from dockyard.cli.endpoint import of_context

            host, tls = of_context(context, self.config_folder)
        elif (host and not host.startswith("unix:///")) or self._wants_tls():
            from dockyard.cli.endpoint import of_address

            host, tls = of_address(host or DEFAULT_HOST, self.settings, self.config_folder)
        headers = self.config.get("HttpHeaders") or {}
        version = os.environ.get("DOCKER_API_VERSION", "")
        connection = Connection(host or DEFAULT_HOST, tls, headers=headers, version=version.removeprefix("v"))
        if autostart:
            self._start_engine(connection)
        return connection

    def _wants_tls(self) -> bool:
        return self.settings.on("tls") or self.settings.given("tlsverify") or "DOCKER_TLS_VERIFY" in os.environ

    def _start_engine(self, connection: Connection) -> None:
        """Start an engine when none answers on the default socket and we may."""
        try:
            connection.open().close()
            return
        except Unreachable:
            from dockyard.client import local_engine

            if os.geteuid() == 0:
                local_engine.start(lambda line: print(line, file=sys.stderr))
            elif not os.path.exists(local_engine.SOCKET):
                raise Failure(
                    "No engine runs here. Start one with `sudo dockyard engine start`, or say where another is with "
                    "-H or DOCKER_HOST."
                ) from None

    def each(self, names: list[str], work: Callable[[str], object], *, forgiven: int = 0) -> int:
        """Do `work` for every name and print what fails; 1 when anything did, with another status than `forgiven`."""
        failed = 0
        for name in names:
            try:
                work(name)
            except APIError as error:
                sys.stdout.flush()
                print(f"Error response from daemon: {error}", file=sys.stderr)
                failed = failed or int(error.status != forgiven)
        return failed


def filters(flags: Flags) -> dict[str, list[str]]:
    """`--filter NAME=VALUE` as the API wants them. Raises UsageError."""
    found: dict[str, list[str]] = {}
    for value in flags.all("filter"):
        name, equals, wanted = value.partition("=")
        if not equals:
            raise flags.invalid("filter", value, "bad format of filter (expected name=value)")
        found.setdefault(name.strip().lower(), []).append(wanted.strip())
    return found


def prune_filters(session: Session, flags: Flags) -> dict[str, list[str]]:
    """`--filter` of a prune, and what config.json says must be met besides."""
    found = filters(flags)
    for text in session.config.get("pruneFilters") or []:
        name, _, wanted = str(text).partition("=")
        if name == "label" and wanted in found.get("label!", []):
            continue
        if name == "label!" and wanted in found.get("label", []):
            continue
        if wanted not in found.setdefault(name, []):
            found[name].append(wanted)
    return found


def confirm(warning: str, separator: str = "\n") -> bool:
    """Ask before destroying; an interrupt is no."""
    try:
        print(f"{warning}{separator}Are you sure you want to continue? [y/N] ", end="", flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    except KeyboardInterrupt:
        print()
        return False
