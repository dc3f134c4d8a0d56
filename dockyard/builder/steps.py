"""What each instruction does to the stage being built: to its configuration, or to its files.

A step that only configures makes an image without touching a file; COPY, ADD and WORKDIR write a layer directly; only
RUN needs a container.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from dockyard.builder.arguments import Arguments
from dockyard.builder.copying import find_sources, source_checksum
from dockyard.builder.frontend.copies import checked_checksum
from dockyard.builder.layer_plan import LayerPlan, Owner, Source
from dockyard.builder.owners import find_owner
from dockyard.builder.trees import ArchiveTree, DirectoryTree
from dockyard.dockerfile import git_source, instructions
from dockyard.dockerfile.file_mode import parse_mode
from dockyard.dockerfile.image_config import Configuring
from dockyard.dockerfile.instructions import Arg, Command, Copy, HealthCheck, Instruction, Pairs, Text, Words
from dockyard.dockerfile.substitution import expand_document
from dockyard.errors import DockyardError, InvalidParameter
from dockyard.oci.image_config import ContainerConfig, Healthcheck

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dockyard.builder.builder import Build
    from dockyard.engine.images.image import Image

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TRIGGERLESS = ("ONBUILD", "FROM", "MAINTAINER")


class CommandFailed(DockyardError):
    """A RUN ended with a code other than 0; `exit_code` is that."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(slots=True)
class StageState:
    """A stage on its way: the image made by its latest step (None: nothing yet), and what its containers will run."""

    image: Image | None
    config: ContainerConfig
    arguments: Arguments
    maintainer: str = ""

    def environment(self) -> dict[str, str]:
        """What variables stand for: the image's ENV goes before arguments."""
        values = self.arguments.values()
        values.update(item.partition("=")[::2] for item in self.config.env or ())
        return values


def base_config(image: Image | None) -> ContainerConfig:
    """The configuration a stage starts from; a copy."""
    config = image.config.config if image is not None else None
    copied = msgspec.json.decode(msgspec.json.encode(config), type=ContainerConfig) if config else ContainerConfig()
    if not any(item.startswith("PATH=") for item in copied.env or ()):
        copied.env = [*(copied.env or ()), DEFAULT_PATH]
    copied.open_stdin = copied.stdin_once = False
    return copied


class Steps:
    """Does the steps of one stage."""

    def __init__(self, build: Build, state: StageState, escape: str) -> None:
        self._build = build
        self.state = state
        self._escape = escape
        self._configuring = Configuring(state.config, state.environment, escape)
        self._handlers: dict[type[Instruction], Callable[[Any], Any]] = {
            Arg: self._arg,
            Command: self._command,
            Copy: self._copy,
            HealthCheck: self._health_check,
            Pairs: self._configure,
            Text: self._text,
            Words: self._words,
        }

    async def do(self, instruction: Instruction) -> None:
        """Do one instruction. Raises what the user did wrong, or CommandFailed."""
        await self._handlers[type(instruction)](instruction)

    async def run_triggers(self) -> None:
        """Do what the base image asks of its children (ONBUILD)."""
        triggers = self.state.config.on_build or []
        if not triggers:
            return
        self.state.config.on_build = None
        self._build.say(f"# Executing {len(triggers)} build trigger{'s' if len(triggers) > 1 else ''}\n")
        for trigger in triggers:
            await self.do(instructions.parse_trigger(trigger))

    # -- configuration alone

    def _expand(self, word: str) -> str:
        return self._configuring.expand(word)

    def _shell_text(self) -> str:
        return " ".join(self._configuring.shell())

    async def _configured(self, comment: str) -> None:
        """Make the image of a step that changed the configuration only."""
        await self._build.configure(self.state, f"{self._shell_text()} #(nop)  {comment}")

    async def _configure(self, step: Instruction) -> None:
        await self._configured(self._configuring.apply(step))

    async def _arg(self, step: Arg) -> None:
        shown = []
        for name, value in step.arguments:
            name = self._expand(name)
            value = self._expand(value) if value is not None else None
            self.state.arguments.declare(name, value)
            shown.append(name if value is None else f"{name}={value}")
        await self._configured("ARG " + " ".join(shown))

    async def _health_check(self, step: HealthCheck) -> None:
        before = self.state.config.healthcheck
        if before is not None and before.test and before.test[0] != "NONE":
            self._build.say(f"Note: overriding previous HEALTHCHECK: [{' '.join(before.test)}]\n")
        await self._configure(step)

    async def _text(self, step: Text) -> None:
        if step.word == "WORKDIR":
            await self._workdir(step)
            return
        if step.word == "MAINTAINER":
            self.state.maintainer = self._expand(step.text)
        await self._configure(step)

    async def _words(self, step: Words) -> None:
        if step.word != "VOLUME":
            await self._configure(step)
            return
        created_by = f"{self._shell_text()} #(nop)  {self._configuring.apply(step)}"
        key, known = self._build.probe(self.state, created_by)
        if known:
            return
        async with self._base_tree() as base:
            for place in self.state.config.volumes or ():
                below = base.find(posixpath.join("/", place)) if base is not None else None
                if below is not None and not below.directory:
                    raise InvalidParameter(f"cannot mount volume over existing file, file exists {place}")
        await self._build.configure(self.state, created_by, key)

    # -- commands

    async def _command(self, step: Command) -> None:
        if step.word == "RUN":
            await self._run([*self._configuring.shell(), *step.words] if step.shell else list(step.words))
        else:
            await self._configure(step)

    async def _run(self, words: list[str]) -> None:
        build, state = self._build, self.state
        if state.image is None:
            raise InvalidParameter("No command specified: there is nothing in an empty image to run")
        own = {item.partition("=")[0] for item in state.config.env or ()}
        arguments = {name: value for name, value in state.arguments.values().items() if name not in own}
        keyed = sorted(f"{name}={value}" for name, value in arguments.items() if state.arguments.counts_for_cache(name))
        created_by = " ".join([f"|{len(keyed)}", *keyed, *words] if keyed else words)
        key, known = build.probe(state, created_by)
        if known:
            return
        config = msgspec.structs.replace(
            state.config,
            cmd=words or state.config.cmd,  # RUN [] runs what the image would
            entrypoint=[""] if words else state.config.entrypoint,  # "": none, whatever the image says
            env=[*(state.config.env or ()), *(f"{name}={value}" for name, value in sorted(arguments.items()))],
            healthcheck=Healthcheck(["NONE"]),
            on_build=None,
            image=state.image.id,
        )
        container_id = await build.create_container(config)
        build.say(f" ---> Running in {container_id[:12]}\n")
        code = await build.run_container(container_id)
        if code != 0:
            raise CommandFailed(f"The command '{' '.join(words)}' returned a non-zero code: {code}", code)
        await build.commit_container(state, key, created_by, container_id)

    # -- files

    async def _workdir(self, step: Text) -> None:
        self._configuring.apply(step)
        config = self.state.config
        created_by = f"{self._shell_text()} #(nop) WORKDIR {config.working_dir}"
        key, known = self._build.probe(self.state, created_by)
        if known:
            return
        async with self._base_tree() as base:
            plan = LayerPlan(base)
            target = plan.resolve(config.working_dir)
            if plan.is_directory(target):
                await self._build.configure(self.state, created_by, key)
                return
            plan.make_directories(target)
            await self._build.add_layer(self.state, key, created_by, plan)

    async def _copy(self, step: Copy) -> None:
        build, state = self._build, self.state
        destination = self._expand(step.destination)
        chown, chmod = self._expand(step.owner), self._expand(step.mode)
        mode = parse_mode(chmod, symbolic=False)
        async with build.source_tree(step.stage) as tree:
            sources = await self._sources(step, tree)
            if len(sources) > 1 and not destination.endswith("/"):
                raise InvalidParameter(
                    f"When using {step.word} with more than one source file, the destination must be a directory and "
                    "end with a /"
                )
            keeps_owners = bool(step.stage) and not chown
            digest = await build.in_thread(lambda: source_checksum(sources, owners=keeps_owners))
            flags = (f"--chown={chown} " if chown else "") + (f"--chmod={chmod} " if chmod else "")
            flags += "--link " if step.link else ""
            created_by = f"{self._shell_text()} #(nop) {step.word} {flags}{digest} in {destination} "
            key, known = build.probe(state, created_by)
            if known:
                return
            async with self._base_tree() as base:
                owner = find_owner(chown, base) if chown else Owner(0, 0)
                place = posixpath.join("/", state.config.working_dir or "/", destination)
                if destination.endswith(("/", "/.")) or destination in (".", ".."):
                    place = posixpath.normpath(place).rstrip("/") + "/"
                with closing(LayerPlan(None if step.link else base, owner)) as plan:

                    def lay_out() -> None:
                        for source in sources:
                            plan.add(source, place, None if keeps_owners else owner, mode)

                    await build.in_thread(lay_out)
                    await build.add_layer(state, key, created_by, plan)

    async def _sources(self, step: Copy, tree: ArchiveTree | DirectoryTree) -> list[Source]:
        build = self._build
        found: list[Source] = []
        try:
            for document in step.documents:
                content = document.text
                if document.expand:
                    content = expand_document(content, self.state.environment())
                inline = ArchiveTree()
                inline.add(document.name, content.encode())
                found += find_sources(inline, [document.name], context=True, unpack=False)
            words = [self._expand(word) for word in step.sources]
            checksum = checked_checksum(self._expand(step.checksum), words)
            for source in words:
                if step.word == "ADD" and git_source.is_git(source):
                    found.append(await build.clone(source, keep_git=bool(step.keep_git), commit=checksum))
                elif re.match(r"https?://", source):
                    if step.word == "COPY":
                        raise InvalidParameter("source can't be a URL for COPY")
                    found.append(await build.download(source, step.destination, checksum))
                else:
                    look = partial(find_sources, tree, [source], context=not step.stage, unpack=step.word == "ADD")
                    found += await build.in_thread(look)
            if not found:
                raise InvalidParameter("no source files were specified")
        except InvalidParameter as error:
            raise InvalidParameter(f"{step.word} failed: {error}") from None
        return found

    @asynccontextmanager
    async def _base_tree(self) -> AsyncIterator[DirectoryTree | None]:
        async with self._build.image_tree(self.state.image) as tree:
            yield tree
