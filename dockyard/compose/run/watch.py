"""`develop.watch`: what changes here is copied into running containers, or has them restarted or built anew."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dockyard.client.container import Container
from dockyard.client.errors import ClientError
from dockyard.compose.errors import ComposeError
from dockyard.compose.plan import labels
from dockyard.compose.plan.changes import FORCE
from dockyard.compose.plan.order import together
from dockyard.compose.run.build import BuildRequest, build_images
from dockyard.compose.run.changed_files import changed_files
from dockyard.compose.run.converge import CreateRequest, create
from dockyard.compose.run.logs import WATCH
from dockyard.compose.run.starting import start_services
from dockyard.dockerfile.dockerignore import IgnoreRules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dockyard.compose.run.application import Application
    from dockyard.compose.run.logs import LogPrinter

Tree = dict[str, Any]

SYNCING = ("sync", "sync+restart", "sync+exec")
# what editors leave beside files while they write them
EPHEMERAL = ("**/*~", "**/.#*", "**/#*#", "**/*.swp", "**/*.swx", "**/*.tmp", "**/.git", "**/4913", "**/___jb_*___")


@dataclass(frozen=True)
class Rule:
    """A trigger of a service, and which paths it is about."""

    service: str
    path: str
    action: str
    target: str
    hook: Tree
    ignored: IgnoreRules
    included: IgnoreRules | None

    def place(self, path: str) -> str | None:
        """Where a path here is in the container, "" when there is no target; None when the rule is not about it."""
        if path != self.path and not path.startswith(self.path.rstrip("/") + "/"):
            return None
        inside = os.path.relpath(path, self.path)
        if inside != "." and self.ignored.excludes(inside):
            return None
        if self.included is not None and not self.included.excludes(inside):
            return None
        if not self.target:
            return ""
        return self.target if inside == "." else f"{self.target.rstrip('/')}/{inside}"


class Watcher:
    """Watches a project's files."""

    def __init__(
        self, application: Application, printer: LogPrinter, *, build: bool = True, prune: bool = True
    ) -> None:
        """Raises ComposeError when there is nothing to watch, or a trigger cannot be acted on."""
        self._application = application
        self._printer = printer
        self._build = build
        self._prune = prune
        self._stop = threading.Event()
        self.rules = [rule for name in sorted(application.project.services) for rule in self._rules(name)]
        if not self.rules:
            raise ComposeError(
                "none of the selected services is configured for watch, consider setting a 'develop' section"
            )

    def _rules(self, name: str) -> list[Rule]:
        service = self._application.project.services[name]
        found = []
        ignored = self._dockerignore(service)
        for trigger in (service.get("develop") or {}).get("watch") or ():
            action, path = trigger["action"], trigger["path"]
            if action == "rebuild" and "build" not in service:
                raise ComposeError(f'can\'t watch service "{name}" with action rebuild without a build context')
            if action == "rebuild" and not self._build:
                raise ComposeError(f"--no-build is incompatible with watch action rebuild in service {name}")
            if action in SYNCING and _mounted(path, service):
                self._application.warn(
                    f"path '{path}' also declared by a bind mount volume, this path won't be monitored!"
                )
                continue
            included = IgnoreRules(trigger["include"]) if trigger.get("include") else None
            own = IgnoreRules([*EPHEMERAL, *ignored, *(trigger.get("ignore") or ())])
            found.append(Rule(name, path, action, trigger.get("target", ""), trigger.get("exec") or {}, own, included))
            legacy = trigger.get("x-initialSync")
            if legacy:
                self._application.warn(
                    "x-initialSync is DEPRECATED, please use the official `initial_sync` attribute\n"
                )
            if (trigger.get("initial_sync") or legacy) and action in SYNCING:
                self._sync(name, self._tree(found[-1]))
        return found

    def _dockerignore(self, service: Tree) -> list[str]:
        context = (service.get("build") or {}).get("context", "")
        try:
            with open(os.path.join(context, ".dockerignore"), encoding="utf-8") as file:
                lines = [line.strip() for line in file]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [line for line in lines if line and not line.startswith("#")]

    def _tree(self, rule: Rule) -> dict[str, str]:
        """Every file that a rule is about, and where it is in the container."""
        paths = [rule.path] if os.path.isfile(rule.path) else []
        for folder, _, names in os.walk(rule.path):
            paths += [os.path.join(folder, name) for name in names]
        return {path: place for path in paths if (place := rule.place(path))}

    def stop(self) -> None:
        """Have `run` return."""
        self._stop.set()

    def begin(self) -> Callable[[], None]:
        """Keep watch from now on, in a thread; what is returned has it act on what has changed and will change."""
        watching, acting = threading.Event(), threading.Event()

        def ready() -> None:
            watching.set()
            acting.wait()

        threading.Thread(target=self.run, args=(ready,), daemon=True).start()
        watching.wait()
        return acting.set

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Act on what changes, until told to stop; `ready` is called when nothing is missed any more."""
        for batch in changed_files(sorted({rule.path for rule in self.rules}), self._stop):
            if not batch:
                ready()
                self._printer.line(WATCH, "Watch enabled")
            try:
                self.act(batch)
            except (ClientError, OSError) as error:
                self._application.warn(f"Error handling changed files: {error}")
        self._printer.line(WATCH, "Watch disabled")

    def act(self, paths: Iterable[str]) -> None:
        """Do what the rules say of changed paths. Raises ClientError, OSError."""
        rebuild: set[str] = set()
        restart: set[str] = set()
        sync: dict[str, dict[str, str]] = {}
        hooks: dict[int, Rule] = {}
        for path in sorted(paths):
            for number, rule in enumerate(self.rules):
                place = rule.place(path)
                if place is None:
                    continue
                if rule.action == "rebuild":
                    rebuild.add(rule.service)
                if rule.action in SYNCING:
                    sync.setdefault(rule.service, {})[path] = place
                if rule.action in ("restart", "sync+restart"):
                    restart.add(rule.service)
                if rule.action == "sync+exec":
                    hooks[number] = rule
        if rebuild:
            self._rebuild(sorted(rebuild))
        for service, places in sorted(sync.items()):
            self._printer.line(WATCH, f'Syncing service "{service}" after {len(places)} changes were detected')
            self._sync(service, places)
        if restart:
            self._restart(sorted(restart))
        for _, rule in sorted(hooks.items()):
            self._exec(rule)

    # -- what is done

    def _sync(self, service: str, places: dict[str, str]) -> None:
        engine = self._application.engine
        there = engine.containers(self._application.project.name, [service])
        gone = [place for path, place in places.items() if not os.path.lexists(path)]
        archive = _archive({path: place for path, place in places.items() if os.path.lexists(path)})

        def one(id: str) -> Callable[[], None]:
            def work() -> None:
                if gone:
                    container: Container[Any] = Container(engine.client._session, id)
                    container.exec(["rm", "-rf", *gone])
                if archive:
                    engine.put(f"/containers/{id}/archive", archive, path="/", copyUIDGID=True)

            return work

        together([one(container.id) for container in there])

    def _restart(self, services: list[str]) -> None:
        engine = self._application.engine
        there = engine.containers(self._application.project.name)

        def one(id: str) -> Callable[[], None]:
            return lambda: engine.post(f"/containers/{id}/restart")

        together([one(container.id) for container in there if container.service in services])
        self._printer.line(WATCH, f"service(s) {_listed(services)} restarted")

    def _exec(self, rule: Rule) -> None:
        from dockyard.compose.run.hooks import run_hooks

        engine = self._application.engine
        for container in engine.containers(self._application.project.name, [rule.service], all=False):
            run_hooks(self._application, container, [rule.hook], self._printer.line)

    def _rebuild(self, services: list[str]) -> None:
        application = self._application
        listed = _listed(services)
        self._printer.line(WATCH, f"Rebuilding service(s) {listed} after changes were detected...")
        try:
            build_images(application, BuildRequest(always=True, quiet=True), services)
        except ClientError as error:
            self._printer.line(WATCH, f"Build failed. Error: {error}")
            return
        if self._prune:
            self._remove_dangling()
        self._printer.line(WATCH, f"service(s) {listed} successfully built")
        create(application, CreateRequest(services=services, recreate=FORCE, ignore_orphans=True))
        start_services(application)

    def _remove_dangling(self) -> None:
        engine = self._application.engine
        mark = f"{labels.PROJECT}={self._application.project.name}"
        for image in engine.get("/images/json", filters={"dangling": ["true"], "label": [mark]}):
            try:
                engine.delete(f"/images/{image['Id']}")
            except ClientError:
                pass  # a container still has it


def _listed(services: list[str]) -> str:
    return "[" + " ".join(f'"{name}"' for name in services) + "]"


def _mounted(path: str, service: Tree) -> bool:
    """Whether a path is mounted into the container anyway."""
    return any(
        mount.get("type") == "bind"
        and (path == mount.get("source") or path.startswith(str(mount.get("source", "")).rstrip("/") + "/"))
        for mount in service.get("volumes") or ()
    )


def _archive(places: dict[str, str]) -> bytes:
    """Files, each at its place in the container, root's."""
    if not places:
        return b""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for path, place in sorted(places.items()):
            try:
                info = archive.gettarinfo(path, place.lstrip("/"))
            except FileNotFoundError:
                continue  # gone since
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            if info.isreg():
                with open(path, "rb") as file:
                    archive.addfile(info, file)
            elif info.isdir() or info.issym():
                archive.addfile(info)
    return data.getvalue()
