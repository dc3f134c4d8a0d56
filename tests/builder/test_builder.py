"""Builds with the real layer store, up to where a container is needed."""

import io
import os
import tarfile
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from dockyard.builder.builder import Builder
from dockyard.builder.cache.records import StepCache
from dockyard.builder.cache.usage import PruneOrder
from dockyard.builder.doors.classic.options import BuildOptions, check_tags
from dockyard.builder.doors.classic.output import LaterOutput, Output
from dockyard.builder.exec.run import Runner
from dockyard.content.unpack import Worker
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.events.service import Events
from dockyard.engine.images.image import Image
from dockyard.engine.images.layer_store import LayerStore
from dockyard.engine.images.service import ImageService
from dockyard.engine.state.database import Database
from dockyard.errors import InvalidParameter
from dockyard.snapshots.choice import choose

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


class Room:
    """A builder with stores of its own."""

    def __init__(self, root: Path) -> None:
        self.worker = Worker()
        self.database = Database(root / "state.db")
        self.layers = LayerStore(choose(None, root), self.worker, self.database, root)
        self.steps = StepCache(self.layers, self.database)
        self.containers = ContainerLayers(self.layers, self.database)
        self.images = ImageService(self.layers, cast(Any, None), self.database, Events())
        runner = cast(Runner, None)
        self.builder = Builder(
            self.images,
            self.layers,
            self.containers,
            runner,
            self.database,
            Events(),
            root / "builds",
            "amd64",
            self.steps,
            root / "exec",
        )
        self.said: list[dict[str, Any]] = []

    async def build(self, text: str, files: dict[str, bytes] | None = None, **options: Any) -> Image:
        self.said = []
        context = _context({"Dockerfile": text.encode(), **(files or {})})
        return await self.builder.classic.build(context, BuildOptions(**options), Output(self.said.append))

    @property
    def log(self) -> str:
        return "".join(message.get("stream", "") for message in self.said)

    async def content(self, image: Image) -> dict[str, tuple[int, bytes]]:
        """{path: (mode, content)} of an image's files."""
        found = {}
        async with self.layers_of(image) as root:
            for folder, _, names in os.walk(root):
                for name in names:
                    path = os.path.join(folder, name)
                    with open(path, "rb") as file:
                        found[os.path.relpath(path, root)] = (os.stat(path).st_mode & 0o7777, file.read())
        return found

    @asynccontextmanager
    async def layers_of(self, image: Image) -> AsyncIterator[str]:
        await self.containers.create("look", image.chain_id, bare=True)
        try:
            async with self.containers.mounted("look") as root:
                yield root.path
        finally:
            await self.containers.release("look")


async def _context(files: dict[str, bytes]) -> AsyncIterator[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    yield buffer.getvalue()


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    with tempfile.TemporaryDirectory(prefix="dockyard-build-") as name:
        made = Room(Path(name))
        yield made
        await made.layers.close()
        made.worker.close()
        made.database.close()


SIMPLE = """FROM scratch
ARG WHO=world
ENV GREETING="hello $WHO"
LABEL a=b
WORKDIR /srv/app
COPY . .
EXPOSE 80 8000-8001/udp
VOLUME /data
USER 5:6
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD true
ENTRYPOINT ["/srv/app/run"]
CMD ["$GREETING"]
"""


async def test_every_instruction_lands_in_the_configuration(room: Room) -> None:
    image = await room.build(SIMPLE, {"run": b"x"}, tags=check_tags(["demo"]))
    config = image.config.config
    assert config is not None
    assert config.env == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GREETING=hello world"]
    assert config.labels == {"a": "b"}
    assert config.working_dir == "/srv/app"
    assert sorted(config.exposed_ports or {}) == ["80/tcp", "8000/udp", "8001/udp"]
    assert list(config.volumes or {}) == ["/data"]
    assert (config.user, config.stop_signal) == ("5:6", "SIGINT")
    assert config.healthcheck is not None
    assert config.healthcheck.test == ["CMD-SHELL", "true"]
    assert (config.entrypoint, config.cmd) == (["/srv/app/run"], ["$GREETING"])
    assert (await room.content(image))["srv/app/run"] == (0o644, b"x")
    assert room.images.find("demo:latest").id == image.id


async def test_the_log_reads_like_the_classic_builders(room: Room) -> None:
    image = await room.build('FROM scratch\nCOPY a /\nCMD ["/a"]\n', {"a": b"1"}, tags=check_tags(["demo"]))
    short = image.id.removeprefix("sha256:")[:12]
    lines = room.log.splitlines()
    assert lines[0] == "Step 1/3 : FROM scratch"
    assert lines[2] == "Step 2/3 : COPY a /"
    assert lines[4] == 'Step 3/3 : CMD ["/a"]'
    assert lines[-2:] == [f"Successfully built {short}", "Successfully tagged demo:latest"]
    assert {"aux": {"ID": image.id}} in room.said


async def test_a_second_build_comes_from_the_cache(room: Room) -> None:
    first = await room.build(SIMPLE, {"run": b"x"})
    again = await room.build(SIMPLE, {"run": b"x"})
    assert (again.id, room.log.count("Using cache")) == (first.id, 12)
    changed = await room.build(SIMPLE, {"run": b"y"})
    assert changed.id != first.id
    assert room.log.count("Using cache") == 4
    await room.build(SIMPLE, {"run": b"x"}, no_cache=True)
    assert "Using cache" not in room.log
    await room.build(SIMPLE, {"run": b"x"}, arguments={"WHO": "you", "unknown": "x"})
    assert "[Warning] One or more build-args [unknown] were not consumed" in room.log


async def test_stages_hand_files_on_and_a_target_leaves_others_out(room: Room) -> None:
    text = (
        "FROM scratch AS one\nCOPY a /deep/a\nFROM scratch AS other\nCOPY b /\n"
        "FROM one AS last\nCOPY --from=1 /b /\nCOPY --from=one --chown=7 /deep /copied\n"
    )
    image = await room.build(text, {"a": b"1", "b": b"2"})
    assert {path: value[1] for path, value in (await room.content(image)).items()} == {
        "deep/a": b"1",
        "b": b"2",
        "copied/a": b"1",
    }
    one = await room.build(text, {"a": b"1", "b": b"2"}, target="one")
    assert list(await room.content(one)) == ["deep/a"]
    assert "Step 2/2" in room.log


async def test_a_whole_stage_can_be_copied_and_brings_only_its_own_files(room: Room) -> None:
    text = "FROM scratch AS one\nCOPY a /deep/a\nFROM scratch\nCOPY --from=one / /\n"
    assert list(await room.content(await room.build(text, {"a": b"1"}))) == ["deep/a"]


async def test_an_image_asks_its_children(room: Room) -> None:
    await room.build("FROM scratch\nONBUILD COPY a /\nONBUILD LABEL made=yes\n", tags=check_tags(["parent"]))
    child = await room.build("FROM parent\n", {"a": b"1"})
    assert "# Executing 2 build triggers" in room.log
    assert child.labels == {"made": "yes"}
    assert child.config.config is not None
    assert not child.config.config.on_build
    assert list(await room.content(child)) == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM scratch\nCOPY nope /\n",
         r"^COPY failed: file not found in build context or excluded by \.dockerignore: stat nope: file does not"),
        ("FROM scratch\nCOPY a b /c\n", "the destination must be a directory and end with a /"),
        ("FROM scratch\nCOPY *.none /\n", "^COPY failed: no source files were specified$"),
        ("FROM scratch\nCOPY ../x /\n", "forbidden path outside the build context"),
        ("FROM scratch\nCOPY http://localhost/x /\n", "source can't be a URL for COPY"),
        ("FROM scratch\nADD --chown=bob a /\n", "no such user: bob"),
        ("FROM $none\n", "should not be blank"),
        ("FROM scratch\nSTOPSIGNAL nope\n", "invalid signal: nope"),
        ("FROM scratch\n", "No image was generated"),
        ("FROM scratch\nRUN --mount=type=cache x\n", "the --mount option requires BuildKit"),
        ("FROM scratch AS a\nFROM scratch AS a\n", "a stage name already used"),
    ],
)  # fmt: skip
async def test_mistakes_are_told_in_dockers_words(room: Room, text: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        await room.build(text, {"a": b"1", "b": b"2"})


async def test_labels_of_the_command_line_are_the_last_step(room: Room) -> None:
    image = await room.build("FROM scratch\nLABEL a=1\n", labels={"b": '$x "y"', "a": "2"})
    assert image.labels == {"a": "2", "b": '$x "y"'}
    assert "Step 4/4 : LABEL b=" in room.log


async def test_a_cache_source_gives_its_layers(room: Room) -> None:
    first = await room.build(SIMPLE, {"run": b"x"}, tags=check_tags(["demo"]))
    await room.builder.prune(PruneOrder())
    again = await room.build(SIMPLE, {"run": b"x"}, cache_from=["demo"])
    assert room.log.count("Using cache") == 12
    assert again.config.rootfs.diff_ids == first.config.rootfs.diff_ids


async def test_the_last_step_of_a_cache_source_is_the_source_itself(room: Room) -> None:
    first = await room.build(SIMPLE, {"run": b"x"}, tags=check_tags(["demo"]))
    await room.builder.prune(PruneOrder())
    again = await room.build(SIMPLE, {"run": b"x"}, cache_from=["demo"])
    assert again.id == first.id


async def test_only_the_named_cache_sources_count(room: Room) -> None:
    await room.build(SIMPLE, {"run": b"x"}, tags=check_tags(["demo"]))
    await room.build(SIMPLE, {"run": b"x"}, cache_from=["demo"])
    assert room.log.count("Using cache") == 12
    await room.build(SIMPLE, {"run": b"x"}, cache_from=["nosuchimage"])
    assert "Using cache" not in room.log


async def test_squash_makes_one_layer_of_the_new_ones(room: Room) -> None:
    base = await room.build("FROM scratch\nCOPY a /a\n", {"a": b"1"}, tags=check_tags(["base"]))
    text = "FROM base\nCOPY b /b\nENV X=y\nCOPY c /b\n"
    image = await room.build(text, {"b": b"2", "c": b"3"}, squash=True)
    assert image.config.rootfs.diff_ids[:1] == base.config.rootfs.diff_ids
    assert len(image.config.rootfs.diff_ids) == 2
    assert {path: value[1] for path, value in (await room.content(image)).items()} == {"a": b"1", "b": b"3"}
    assert [line.empty_layer for line in image.config.history or []] == [False, True, True, True, False]
    assert (image.config.history or [])[-1].comment.startswith("merge sha256:")


async def test_a_heredoc_is_a_file(room: Room) -> None:
    image = await room.build("FROM scratch\nARG x=1\nCOPY <<one <<'two' /d/\n$x\none\n$x\ntwo\n")
    contents = {path: value[1] for path, value in (await room.content(image)).items()}
    assert contents == {"d/one": b"1\n", "d/two": b"$x\n"}


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        ("COPY l/*.jar /app/", {"l/a-1.0.jar": b"x"}, {"l/a-1.1.jar": b"x"}),
        ("ARG F=one\nCOPY $F /app/", {"one": b"x", "two": b"x"}, {"F": "two"}),
        ("FROM scratch\nCOPY --from=0 /*.jar /app/", {"a.jar": b"x"}, {"b.jar": b"x"}),
    ],
)
async def test_a_file_of_another_name_is_another_step(
    room: Room, step: str, before: dict[str, bytes], after: dict[str, Any]
) -> None:
    text = f"FROM scratch\nCOPY . /\n{step}\n" if "--from" in step else f"FROM scratch\n{step}\n"
    await room.build(text, before)
    arguments = {name: value for name, value in after.items() if isinstance(value, str)}
    image = await room.build(text, before if arguments else after, arguments=arguments)
    wanted = next(iter(arguments.values() if arguments else after)).rpartition("/")[2]
    assert [path for path in await room.content(image) if path.startswith("app/")] == [f"app/{wanted}"]


async def test_ports_in_another_order_are_the_same_step(room: Room) -> None:
    one = await room.build("FROM scratch\nEXPOSE 90 80\nVOLUME /b /a\n")
    assert one.config.config is not None
    assert list(one.config.config.exposed_ports or {}) == ["80/tcp", "90/tcp"]
    await room.build("FROM scratch\nEXPOSE 80 90\nVOLUME /b /a\n")
    assert room.log.count("Using cache") == 2


async def test_a_volume_over_a_file_is_refused(room: Room) -> None:
    for text in ("VOLUME /d/f", 'VOLUME ["/d", "/d/f"]'):
        with pytest.raises(InvalidParameter, match="cannot mount volume over existing file"):
            await room.build(f"FROM scratch\nCOPY f /d/f\n{text}\n", {"f": b"1"})
    await room.build("FROM scratch\nCOPY f /d/f\nVOLUME /d\n", {"f": b"1"})


def _link(name: str, target: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        tar.addfile(info)
    return buffer.getvalue()


LINK = _link("here", "real")


async def test_a_linked_copy_does_not_follow_the_images_links(room: Room) -> None:
    """As in .NET's official Dockerfiles; without --link the file would be in /real."""
    await room.build("FROM scratch\nCOPY f /real/f\n", {"f": b"1"}, tags=check_tags(["base"]))
    image = await room.build("FROM base\nADD l.tar /\nCOPY --link g /here/\n", {"g": b"2", "l.tar": LINK})
    assert (await room.content(image))["here/g"] == (0o644, b"2")
    image = await room.build("FROM base\nADD l.tar /\nCOPY --link=false g /here/\n", {"g": b"2", "l.tar": LINK})
    assert (await room.content(image))["real/g"] == (0o644, b"2")
    with pytest.raises(InvalidParameter, match="expecting boolean value for flag --link, not: maybe"):
        await room.build("FROM base\nCOPY --link=maybe g /here/\n", {"g": b"2"})


async def test_steps_are_known_as_images_and_hold_no_layer_when_the_build_has_ended(room: Room) -> None:
    """They would be in the build cache twice, and an image's removal would give nothing back."""
    image = await room.build(
        "FROM scratch\nCOPY f /f\nCOPY --link g /g/\nWORKDIR /w\nVOLUME /v\n", {"f": b"1", "g": b"2"}
    )
    assert not list(room.steps.rows())
    assert not room.builder.solver.jobs
    assert image.chain_id is not None
    await room.images.remove(image.id)
    assert image.chain_id not in room.layers


async def test_of_several_sources_one_may_match_nothing(room: Room) -> None:
    image = await room.build("FROM scratch\nCOPY f *.none /d/\n", {"f": b"1"})
    assert list(await room.content(image)) == ["d/f"]


async def test_with_pull_a_base_by_its_id_is_the_one_that_is_here(room: Room) -> None:
    base = await room.build("FROM scratch\nCOPY f /f\n", {"f": b"1"})
    image = await room.build(f"FROM {base.id}\nENV a=b\n", pull=True)
    assert image.parent == base.id


def test_what_a_stage_says_before_its_turn_is_kept_up_to_a_bound(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    later = LaterOutput(Output(said.append), tmp_path)
    later.text("first\n")
    later.message({"status": "Pulling"})
    for _ in range(20):
        later.text("x" * (1 << 20))
    assert said == []
    later.release()
    later.text("last\n")
    assert said[:2] == [{"stream": "first\n"}, {"status": "Pulling"}]
    assert "output clipped" in said[-2]["stream"]
    assert said[-1] == {"stream": "last\n"}
    assert sum(len(one.get("stream", "")) for one in said) < 17 << 20
    assert not list(tmp_path.iterdir())


@pytest.fixture
async def site() -> AsyncIterator[str]:
    """A web site whose every page says `hello`, /asked.txt by way of another."""

    async def page(request: web.Request) -> web.Response:
        if request.path == "/asked.txt":
            raise web.HTTPFound("/other/real.txt")
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    server = web.TCPSite(runner, "127.0.0.1", 0)
    await server.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_add_names_a_file_by_the_url_that_was_asked_for(room: Room, site: str) -> None:
    image = await room.build(f"FROM scratch\nADD {site}/asked.txt /x/\n")
    assert await room.content(image) == {"x/asked.txt": (0o600, b"hello")}


async def test_files_of_equal_content_from_two_urls_are_two_steps(room: Room, site: str) -> None:
    text = "FROM scratch\nARG F\nADD $F /x/\n"
    await room.build(text, arguments={"F": f"{site}/one"})
    image = await room.build(text, arguments={"F": f"{site}/two"})
    assert list(await room.content(image)) == ["x/two"]


HELLO = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


async def test_add_takes_only_what_has_the_digest_it_names(room: Room, site: str) -> None:
    await room.build(f"FROM scratch\nADD --checksum={HELLO} {site}/f /x\n")
    for checksum, source, message in (
        (HELLO[:-1] + "0", f"{site}/f", "^ADD failed: digest mismatch sha256:2cf2"),
        ("md5:1", f"{site}/f", "invalid checksum digest format"),
        (HELLO, f"{site}/f {site}/g", "checksum can't be specified for multiple sources"),
        (HELLO, "Dockerfile", r"checksum requires HTTP\(S\) or Git sources"),
    ):
        with pytest.raises(InvalidParameter, match=message):
            await room.build(f"FROM scratch\nADD --checksum={checksum} {source} /x/\n")
