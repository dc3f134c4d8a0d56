"""Builds by BuildKit's API: of all services side by side, or after those whose results they are built with."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from typing import TYPE_CHECKING, Any, TextIO

from dockyard.buildkit import wire_pb2 as wire
from dockyard.buildx import progress
from dockyard.buildx import request as asked
from dockyard.buildx.answers import Question
from dockyard.buildx.excerpt import excerpt
from dockyard.buildx.several import solve_several
from dockyard.buildx.solve import BuildFailed, Solved
from dockyard.client.http import Connection
from dockyard.compose.errors import ComposeError
from dockyard.compose.plan.targets import SERVICE, arguments_of, target, target_names
from dockyard.compose.run.progress import DONE
from dockyard.dockerfile.git_source import REMOTE, is_git

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dockyard.buildx.progress import Display
    from dockyard.compose.run.application import Application
    from dockyard.compose.run.build import BuildRequest

Tree = dict[str, Any]


class GraphBuild:
    """The builds of some services."""

    def __init__(self, application: Application, request: BuildRequest, names: Sequence[str]) -> None:
        self._application = application
        self._request = request
        self._names = list(names)
        project = application.project
        self._targets = target_names(project.all_services())
        wishes = request.wishes(application)
        self._wishes = wishes
        self._described = {name: target(project, name, self._targets, wishes, one=request.one) for name in names}
        self._trace = progress.Trace()

    def run(self) -> dict[str, str]:
        """Build them; the IDs by image. Raises ComposeError."""
        if self._request.memory:
            print("WARNING: --memory is not supported by BuildKit and will be ignored", file=sys.stderr)
        with self._application.progress.aside(), tempfile.TemporaryDirectory(prefix="compose-build-") as folder:
            display = display_of("quiet" if self._request.quiet or self._request.check else self._request.mode)
            try:
                solved = self._solved(display, folder)
            finally:
                display.end()
        if self._request.check:
            self._tell_checks(solved)
            return {}
        return self._ids(solved)

    def _solved(self, display: Display, folder: str) -> dict[str, Solved]:
        """What has come of each service's build. Raises ComposeError."""

        def show(response: wire.StatusResponse) -> None:
            self._trace.take(response)
            display.show(response)

        targets = {self._targets[name]: name for name in self._names}
        try:
            requests = {one: self._asked(name, os.path.join(folder, one)) for one, name in targets.items()}
            solved = asyncio.run(
                solve_several(
                    self._engine(),
                    requests,
                    {one: self._links(name) for one, name in targets.items()},
                    config_folder=self._application.engine.client._session.config_folder,
                    show=show,
                    after={one: self._before(name) for one, name in targets.items()},
                )
            )
        except asked.InvalidRequest as error:
            raise ComposeError(str(error)) from None
        except BuildFailed as error:
            failed = getattr(error, "target", next(iter(targets)))
            text = self._trace.failures(last=10) + "".join(map(excerpt, error.sources))
            raise ComposeError(f"{text}target {failed}: failed to solve: {error}") from None
        return {targets[one]: found for one, found in solved.items()}

    def _links(self, name: str) -> dict[str, str]:
        """The targets that named contexts of a service are the results of: none where nothing is built."""
        contexts = self._contexts_of(name) if not self._request.check else {}
        return {
            key: self._targets[place.removeprefix(SERVICE)]
            for key, place in contexts.items()
            if place.startswith(SERVICE)
        }

    def _contexts_of(self, name: str) -> dict[str, str]:
        return self._application.project.all_services()[name]["build"].get("additional_contexts") or {}

    def _before(self, name: str) -> list[str]:
        """With COMPOSE_BAKE=false, what the service depends on: its Dockerfile may name the images."""
        if os.environ.get("COMPOSE_BAKE", "").lower() not in ("0", "f", "false"):
            return []
        depends = self._application.project.all_services()[name].get("depends_on") or ()
        return [self._targets[other] for other in depends if other in self._names]

    def _engine(self) -> Connection:
        address = self._application.engine.client._session.address
        return Connection(str(address), address.tls.context() if address.tls is not None else None)

    # -- what is asked for

    def _asked(self, name: str, folder: str) -> asked.BuildRequest:
        """The request for a service. Raises ComposeError, InvalidRequest."""
        project, described = self._application.project, self._described[name]
        build: Tree = project.all_services()[name]["build"]
        made = asked.BuildRequest(
            secrets=[text for text in described.get("secret", ()) if ",type=env," not in text],
            ssh=[text.removesuffix("=") for text in described.get("ssh", ())],
            entitlements=described.get("entitlements", []),
        )
        self._secrets(made, described)
        self._options(made.options, described, build)
        self._context(made, build, described, folder)
        if "attest" in described or self._request.provenance or self._request.sbom:
            attests = described.get("attest", [])
            made.options.update(asked.attestations(attests, self._request.provenance, self._request.sbom))
        if made.options.get("force-network-mode") == "host" and "network.host" not in made.entitlements:
            made.entitlements = [*made.entitlements, "network.host"]
        made.cache_imports = asked.caches(described.get("cache-from", []))
        made.cache_exports = asked.caches(described.get("cache-to", []))
        contexts = self._contexts_of(name)
        asked.contexts(made, {key: place for key, place in contexts.items() if not place.startswith(SERVICE)})
        if self._request.check:
            # nothing is built then: what another service is built to is the image that there is
            for key, place in contexts.items():
                if place.startswith(SERVICE):
                    image = project.image_of(place.removeprefix(SERVICE))
                    made.options[f"context:{key}"] = f"docker-image://{image}"
            made.options["requestid"] = Question("check").request_id
        else:
            made.outputs = [asked.Output("moby", {"name": ",".join(described["tags"])})]
        return made

    def _secrets(self, made: asked.BuildRequest, described: Tree) -> None:
        """Secrets from variables, which may stand in the project's .env alone."""
        for text in described.get("secret", ()):
            fields = dict(part.partition("=")[::2] for part in text.split(","))
            if fields.get("type") == "env":
                value = self._application.project.environment.get(fields["env"], "").encode(errors="surrogateescape")
                made.secret_values[fields["id"]] = value

    def _options(self, options: dict[str, str], described: Tree, build: Tree) -> None:
        arguments = arguments_of(self._application.project, build, self._wishes)
        options.update((f"build-arg:{key}", value) for key, value in arguments.items())
        options.update((f"label:{key}", str(value)) for key, value in described["labels"].items())
        if described.get("no-cache"):
            options["no-cache"] = ""
        network = described.get("network", "")
        if network not in ("", "default", "host", "none"):
            raise ComposeError(
                f'network mode "{network}" not supported by buildkit - you can define a custom network for your '
                "builder using the network driver-opt in buildx create"
            )
        hosts = [
            f"{host}={address}"
            for host, addresses in described.get("extra-hosts", {}).items()
            for address in addresses.split(",")
        ]
        for key, text in (
            ("target", described.get("target", "")),
            ("platform", ",".join(described.get("platforms", ()))),
            ("force-network-mode", "" if network == "default" else network),
            ("add-hosts", ",".join(hosts)),
            ("shm-size", described.get("shm-size", "")),
            ("ulimit", ",".join(map(_both_limits, described.get("ulimits", ())))),
            ("image-resolve-mode", "pull" if described.get("pull") else ""),
        ):
            if text:
                options[key] = text

    def _context(self, made: asked.BuildRequest, build: Tree, described: Tree, folder: str) -> None:
        """Where the files and the Dockerfile are; `folder` is one that we may make. Raises ComposeError."""
        context = build.get("context", ".")
        remote = (context.startswith(REMOTE) or is_git(context)) and not os.path.isdir(context)
        if remote:
            made.options["context"] = context
            if build.get("dockerfile"):
                made.options["filename"] = build["dockerfile"]
        else:
            if not os.path.isdir(context):
                raise ComposeError(f'unable to prepare context: path "{context}" not found')
            made.directories["context"] = context
            place = described.get("dockerfile") or os.path.join(context, "Dockerfile")
            made.directories["dockerfile"] = os.path.dirname(place)
            made.options["filename"] = os.path.basename(place)
            if not os.path.isdir(made.directories["dockerfile"]) and not build.get("dockerfile_inline"):
                raise ComposeError(f"resolve : lstat {made.directories['dockerfile']}: no such file or directory")
        if build.get("dockerfile_inline"):
            os.mkdir(folder)
            with open(os.path.join(folder, "Dockerfile"), "w", encoding="utf-8") as file:
                file.write(build["dockerfile_inline"])
            made.directories["dockerfile"] = folder
            made.options["filename"] = "Dockerfile"
            if remote:
                made.options["dockerfilekey"] = "dockerfile"

    # -- what has come of it

    def _ids(self, solved: Mapping[str, Solved]) -> dict[str, str]:
        application, built = self._application, {}
        for name, one in solved.items():
            image = application.project.image_of(name)
            found = application.engine.image(one.image or image) or application.engine.image(image)
            if found is None:
                raise ComposeError(f"build result not found for service {name}")
            built[image] = str(found["Id"])
            application.progress.event(image, "Built", DONE)
        return built

    def _tell_checks(self, solved: Mapping[str, Solved]) -> None:
        """What the build checks have found. Raises ComposeError when there is an error or a warning."""
        status, question, errors = 0, Question("check"), []
        for number, (name, one) in enumerate(solved.items()):
            text, code, error = question.text(one.answers)
            status = status or code
            heading = f"{self._targets[name]}\n\n" if len(solved) > 1 else ""
            sys.stdout.write(("\n" if number else "") + heading + text)
            if error:
                errors.append(error.rstrip())
        sys.stdout.flush()
        if errors or status:
            raise ComposeError("\n".join(errors))


def _both_limits(text: str) -> str:
    """`nofile=1024` as BuildKit wants it: soft and hard."""
    return re.sub(r"=(-?\d+)$", r"=\1:\1", text)


def display_of(mode: str, to: TextIO | None = None) -> Display:
    """What shows builds in one of Compose's modes."""
    to = to or sys.stdout
    if mode in ("", "auto"):
        mode = os.environ.get("BUILDKIT_PROGRESS") or "auto"
    if mode in ("quiet", "none"):
        return progress.Quiet()
    if mode in ("json", "rawjson"):
        return progress.RawJSON(to)
    if mode == "tty" or (mode == "auto" and to.isatty()):
        from dockyard.buildx.screen import Screen

        return Screen(to)
    return progress.Plain(to)
