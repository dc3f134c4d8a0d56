"""What every compose command works with: which project is meant, the engine, and where to tell what is done."""

from __future__ import annotations

import os
import sys
import time

from dockyard.cli.errors import Failure
from dockyard.cli.session import Session
from dockyard.cli.usage import Flags
from dockyard.compose.errors import ComposeError
from dockyard.compose.model.settings import Settings, load_project

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from dockyard.client.client import Client
    from dockyard.compose.model.load import LoadOptions
    from dockyard.compose.model.project import Project
    from dockyard.compose.run.application import Application
    from dockyard.compose.run.engine import Engine
    from dockyard.compose.run.progress import Progress

MODES = ("", "auto", "tty", "plain", "json", "quiet", "none")


class ComposeSession:
    """One run of a compose command."""

    def __init__(self, outer: Flags | None, settings: Flags, flags: Flags) -> None:
        """`outer`: options before `compose`; `settings`: those before the command; `flags`: the command's own."""
        self.outer = outer
        self.settings = settings
        self.flags = flags
        self._session = Session(_merged(outer, settings))
        self._engine: Engine | None = None
        self.dry = settings.on("dry-run") or flags.on("dry-run")
        _take_environment(settings)
        self.ansi = self._ansi()
        self.mode = self._mode()

    def _ansi(self) -> str:
        settings = self.settings
        ansi = settings.text("ansi", "auto")
        if settings.on("no-ansi"):
            if ansi != "auto":
                raise ComposeError('cannot specify DEPRECATED "--no-ansi" and "--ansi". Please use only "--ansi"')
            ansi = "never"
            print("option '--no-ansi' is DEPRECATED ! Please use '--ansi' instead.", file=sys.stderr)
        if not settings.given("ansi") and "COMPOSE_ANSI" in os.environ:
            ansi = os.environ["COMPOSE_ANSI"]
        return "never" if os.environ.get("NO_COLOR") else ansi

    def _mode(self) -> str:
        given = self.settings.text("progress") or os.environ.get("COMPOSE_PROGRESS", "")
        if given not in MODES:
            raise ComposeError(f'unsupported --progress value "{given}"')
        if given == "tty" and self.ansi == "never":
            raise ComposeError("can't use --progress tty while ANSI support is disabled")
        if given == "plain" and self.ansi == "always":
            raise ComposeError("can't use --progress plain while ANSI support is forced")
        if given in ("", "auto"):
            return {"never": "plain", "always": "tty"}.get(self.ansi, "auto")
        if given == "json":
            os.environ["DOCKYARD_COMPOSE_PROGRESS"] = "json"  # errors are said in it, too
        return given

    @property
    def color(self) -> bool:
        """Whether what containers write is shown in colours."""
        return self.ansi == "always" or (self.ansi == "auto" and sys.stdout.isatty())

    @property
    def limit(self) -> int:
        """How much may be done at once; 0 for all."""
        given = self.settings.number("parallel", -1)
        text = os.environ.get("COMPOSE_PARALLEL_LIMIT", "")
        if not self.settings.given("parallel") and text:
            try:
                given = int(text)
            except ValueError:
                raise ComposeError(f'COMPOSE_PARALLEL_LIMIT must be an integer (found: "{text}")') from None
        return max(given, 0)

    def warn(self, text: str) -> None:
        """Say something that deserves a look, as Compose's logger does."""
        if self.mode == "json":
            import json

            print(json.dumps({"level": "warning", "msg": text}), file=sys.stderr)
        elif sys.stderr.isatty() and self.ansi != "never":
            print(f"\x1b[33mWARN\x1b[0m[0000] {text}", file=sys.stderr)
        else:
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            zone = "Z" if now.endswith("+0000") else f"{now[-5:-2]}:{now[-2:]}"
            quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            print(f'time="{now[:-5]}{zone}" level=warning msg="{quoted}"', file=sys.stderr)

    # -- the project

    def project_settings(self, options: LoadOptions | None = None) -> Settings:
        """Which project is meant. Raises ComposeError."""
        settings = self.settings
        folder = settings.text("project-directory")
        if settings.given("workdir"):
            if folder:
                raise ComposeError(
                    'cannot specify DEPRECATED "--workdir" and "--project-directory". '
                    'Please use only "--project-directory" instead'
                )
            folder = settings.text("workdir")
            print(
                "option '--workdir' is DEPRECATED at root level! Please use '--project-directory' instead.",
                file=sys.stderr,
            )
        env_files = settings.all("env-file") or [
            part for part in os.environ.get("COMPOSE_ENV_FILES", "").split(",") if part
        ]
        found = Settings(
            files=settings.all("file"),
            name=settings.text("project-name"),
            folder=folder,
            profiles=settings.all("profile"),
            env_files=[os.path.abspath(path) for path in env_files],
            compatibility=settings.on("compatibility"),
            all_resources=settings.on("all-resources"),
            environment=dict(os.environ),
            warn=self.warn,
        )
        if options is not None:
            found.options = options
        return found

    def project(self, services: Sequence[str] = ()) -> Project:
        """The project, with the variables of the services that are wanted. Raises ComposeError."""
        return load_project(self.project_settings(), services, environment=False).with_environment(discard=True)

    def project_or_name(self, services: Sequence[str] = ()) -> tuple[Project | None, str]:
        """The project, or its name alone if -p was given without files. Raises ComposeError."""
        name = self.settings.text("project-name")
        if name and not self.settings.all("file"):
            return None, name
        try:
            project = load_project(self.project_settings(), services, environment=False)
        except ComposeError:
            name = os.environ.get("COMPOSE_PROJECT_NAME", "")
            if name:
                return None, name
            raise
        return project, project.name

    # -- the engine

    @property
    def engine(self) -> Engine:
        """The engine, which is started if it is ours and none answers."""
        if self._engine is None:
            from dockyard.compose.run.engine import Engine

            self._engine = Engine(self._client())
        return self._engine

    def _client(self) -> Client:
        from dockyard.client.client import Client
        from dockyard.client.http import DEFAULT_HOST

        session = self._session
        version = os.environ.get("DOCKER_API_VERSION", "").removeprefix("v")
        if session.context != "default":
            os.environ["DOCKER_CONFIG"] = session.config_folder
            return Client(context=session.context, version=version)
        host = session.host
        if not host:
            session.connect()
            return Client(DEFAULT_HOST, version=version)
        tls = None
        if not host.startswith("unix://"):
            from dockyard.cli.endpoint import parse, wants_tls
            from dockyard.client.address import TLS

            host = parse(host)
            if wants_tls(session.settings):
                folder = os.environ.get("DOCKER_CERT_PATH") or session.config_folder
                given = session.settings
                tls = TLS(
                    given.text("tlscacert", f"{folder}/ca.pem"),
                    given.text("tlscert", f"{folder}/cert.pem"),
                    given.text("tlskey", f"{folder}/key.pem"),
                    given.on("tlsverify") or bool(os.environ.get("DOCKER_TLS_VERIFY")),
                )
        return Client(host, tls=tls, version=version)

    @property
    def plain(self) -> Session:
        """What commands without a project work with."""
        return self._session

    @property
    def config(self) -> dict[str, Any]:
        """The client's config.json."""
        return self._session.config

    def application(self, project: Project, progress: Progress | None = None) -> Application:
        """The project on the engine."""
        from dockyard.client.config_file import proxies
        from dockyard.compose.run.application import Application

        engine = self.engine
        engine.separator = project.separator
        if self.dry and not engine.dry:
            from dockyard.compose.run.dry import DryEngine

            engine = self._engine = DryEngine(engine.client, separator=project.separator)
        return Application(
            project=project,
            engine=engine,
            progress=progress or self.progress(),
            warn=self.warn,
            limit=self.limit,
            proxies=proxies(self.config, engine.client.host) if self.config.get("proxies") else {},
        )

    def progress(self, title: str = "Running") -> Progress:
        """Where to tell what is being done."""
        from dockyard.compose.run.progress import make

        return make(self.mode, dry=self.dry, title=title)

    def answered(self, question: str, *, default: bool = False) -> bool:
        """Ask whoever is at the other end of the standard input, terminal or not; no answer is `default`."""
        print(f"{question} [{'Y/n' if default else 'y/N'}]: ", end="", flush=True)
        answer = _answer()
        return answer in ("y", "yes") if answer else default

    def confirm(self, question: str, *, default: bool = False) -> bool:
        """Ask; without anybody to answer it is `default`."""
        if not sys.stdin.isatty():
            print(question)
            self.warn("Compose is running without a 'prompt' component to interact with user")
            return default
        try:
            print(f"{question} [{'Y/n' if default else 'y/N'}] ", end="", flush=True)
            answer = sys.stdin.readline().strip().lower()
        except KeyboardInterrupt:
            raise Failure("canceled", 130) from None
        return answer in ("y", "yes") if answer else default


def _answer() -> str:
    return sys.stdin.readline().strip().lower()


def _merged(outer: Flags | None, settings: Flags) -> Flags:
    """The options that say which engine is meant, wherever they stand."""
    if outer is None:
        return settings
    for name, values in settings._values.items():
        outer._values.setdefault(name, values)
    return outer


def _take_environment(settings: Flags) -> None:
    """COMPOSE_* of the project's .env count as if they were set."""
    from dockyard.compose.model.dotenv import read_files

    files = settings.all("env-file")
    if not files:
        first = next((path for path in settings.all("file") if path != "-"), "")
        folder = settings.text("project-directory") or (os.path.dirname(os.path.abspath(first)) if first else ".")
        default = os.path.join(folder, ".env")
        files = [default] if os.path.isfile(default) else []
    try:
        found = read_files(files, os.environ)
    except ComposeError:
        return  # it is said when the project is loaded
    for name, value in found.items():
        if name.startswith("COMPOSE_"):
            os.environ.setdefault(name, value)
