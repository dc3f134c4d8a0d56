"""Definitions of LLB, as clients with graphs of their own send them: commands, acts on files, merges, differences."""

import asyncio
import hashlib
import io
import json
import secrets
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dockyard.builder.doors.buildkit.policies import policy_of
from dockyard.buildkit import wire_pb2 as wire
from dockyard.errors import InvalidParameter
from dockyard.grpc.calls import call
from dockyard.grpc.connection import Connection
from dockyard.grpc.status import CallFailed
from tests.buildkit_client import BRIDGE, CONTROL, Client, connect
from tests.engine_process import EngineProcess

Output = tuple[str, int]  # of a step, by its digest
NOTHING = -1
SECRET, CACHE, TMPFS = 1, 3, 4


@dataclass
class Graph:
    """A definition that grows; what its methods return can be an input of further steps."""

    ops: list[bytes] = field(default_factory=list)
    metadata: dict[str, wire.OpMetadata] = field(default_factory=dict)

    def add(self, op: wire.Op, *inputs: Output, output: int = 0) -> Output:
        op.inputs.extend(wire.Input(digest=digest, index=index) for digest, index in inputs)
        encoded = op.SerializeToString(deterministic=True)
        if encoded not in self.ops:
            self.ops.append(encoded)
        return f"sha256:{hashlib.sha256(encoded).hexdigest()}", output

    def source(self, identifier: str) -> Output:
        return self.add(wire.Op(source=wire.SourceOp(identifier=identifier)))

    def run(self, base: Output, script: str, *mounts: wire.Mount, extra: tuple[Output, ...] = (), **about: Any) -> str:
        """A command; its digest. Output 0 is its root file system."""
        root = wire.Mount(input=0, destination="/", output=0)
        meta = wire.ExecMeta(args=["/bin/sh", "-c", script], cwd=about.pop("folder", "/"), **about)
        return self.add(wire.Op(exec=wire.ExecOp(meta=meta, mounts=[root, *mounts])), base, *extra)[0]

    def files(self, base: Output | None, *actions: wire.FileAction, extra: tuple[Output, ...] = ()) -> Output:
        """Acts one after the other on `base`, None for nothing; `extra` are the inputs after it."""
        inputs = extra if base is None else (base, *extra)
        for number, action in enumerate(actions):
            action.input = (NOTHING if base is None else 0) if number == 0 else len(inputs) + number - 1
            action.output = 0 if number + 1 == len(actions) else NOTHING
        return self.add(wire.Op(file=wire.FileOp(actions=actions)), *inputs)

    def merge(self, *inputs: Output) -> Output:
        numbers = [wire.OpInput(input=number) for number in range(len(inputs))]
        return self.add(wire.Op(merge=wire.MergeOp(inputs=numbers)), *inputs)

    def difference(self, lower: Output, upper: Output) -> Output:
        lower_input, upper_input = wire.OpInput(input=0), wire.OpInput(input=1)
        return self.add(wire.Op(diff=wire.DiffOp(lower=lower_input, upper=upper_input)), lower, upper)

    def ending(self, output: Output) -> wire.Definition:
        last = wire.Op(inputs=[wire.Input(digest=output[0], index=output[1])]).SerializeToString()
        return wire.Definition(ops=[*self.ops, last], metadata=self.metadata)


def written(path: str, text: str, mode: int = 0o644) -> wire.FileAction:
    return wire.FileAction(make_file=wire.FileMake(path=path, data=text.encode(), mode=mode, timestamp=-1))


def copied(source: str, destination: str, number: int = 1, **how: Any) -> wire.FileAction:
    about: dict[str, Any] = {"mode": -1, "timestamp": -1, "make_destination": True, **how}
    copy = wire.FileCopy(source=source, destination=destination, **about)
    return wire.FileAction(secondary_input=number, copy=copy)


Ask = Callable[[str, bytes], Awaitable[bytes]]


class Gateway:
    """One build in which a client solves what it likes."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.result = wire.Result()  # what is returned in the end
        self.told: Mapping[str, str] = {}  # and what came of that

    async def solve(self, definition: wire.Definition) -> str:
        """The result's name."""
        asked = wire.SolveRequest(definition=definition, evaluate=True).SerializeToString()
        return str(wire.SolveResponse.FromString(await self.ask("Solve", asked)).result.ref.id)

    async def read(self, ref: str, path: str) -> str:
        asked = wire.ReadFileRequest(ref=ref, path=path).SerializeToString()
        return wire.ReadFileResponse.FromString(await self.ask("ReadFile", asked)).data.decode()

    async def stat(self, ref: str, path: str) -> wire.Stat:
        asked = wire.StatFileRequest(ref=ref, path=path).SerializeToString()
        return wire.StatFileResponse.FromString(await self.ask("StatFile", asked)).stat

    async def names(self, ref: str, path: str = "/") -> list[str]:
        asked = wire.ReadDirRequest(ref=ref, path=path).SerializeToString()
        return [one.path for one in wire.ReadDirResponse.FromString(await self.ask("ReadDir", asked)).entries]


@asynccontextmanager
async def gateway(client: Client, **request: Any) -> AsyncIterator[Gateway]:
    """A build that lasts as long as the block."""
    control, ref = Connection(), secrets.token_hex(12)
    await connect(client.path, "/grpc", control)

    async def ask(method: str, message: bytes) -> bytes:
        return await call(control, f"{BRIDGE}{method}", message, {"buildkit-controlapi-buildid": ref})

    try:
        async with client.session():
            begun = wire.ControlSolveRequest(ref=ref, session=client.id, **request)
            solving = asyncio.ensure_future(call(control, f"{CONTROL}Solve", begun.SerializeToString()))
            build = Gateway(ask)
            try:
                yield build
            finally:
                await ask("Return", wire.ReturnRequest(result=build.result).SerializeToString())
                build.told = wire.ControlSolveResponse.FromString(await solving).exporter_response
    finally:
        control.close()


@pytest.fixture
def client(engine: EngineProcess, tmp_path: Path) -> Client:
    folder = tmp_path / "context"
    folder.mkdir()
    return Client(engine.socket, folder)


async def test_a_command_leaves_something_in_its_root_and_in_its_mounts(client: Client) -> None:
    graph = Graph()
    base = graph.source("docker-image://busybox")
    own = graph.files(None, written("/there", "before\n"))
    out = wire.Mount(input=1, destination="/out", output=1)
    fresh = wire.Mount(input=NOTHING, destination="/fresh", output=2)
    script = "head -c 100 /dev/urandom | sha256sum > /out/sum; cp /out/sum /sum; cp /out/sum /fresh; rm /out/there"
    made = graph.run(base, script, out, fresh, extra=(own,))
    async with gateway(client) as build:
        mount = await build.solve(graph.ending((made, 1)))
    async with gateway(client) as build:  # another one finds the same
        root, mount, third = [await build.solve(graph.ending((made, number))) for number in range(3)]
        assert await build.names(mount) == ["sum"]
        assert await build.read(mount, "sum") == await build.read(root, "sum") == await build.read(third, "sum")
        assert "out" not in await build.names(root)
        assert await build.names(third) == ["sum"]


async def test_a_definition_is_built_and_exported_as_an_image(client: Client, engine: EngineProcess) -> None:
    graph = Graph()
    made = graph.run(graph.source("docker-image://busybox"), "echo $WORD > /said", env=["WORD=hello"])
    control = Connection()
    await connect(client.path, "/grpc", control)
    exporter = wire.Exporter(type="moby", attrs={"name": "of-llb"})
    request = wire.ControlSolveRequest(
        ref=secrets.token_hex(12), session=client.id, exporters=[exporter], definition=graph.ending((made, 0))
    )
    try:
        async with client.session():
            await call(control, f"{CONTROL}Solve", request.SerializeToString())
    finally:
        control.close()
    assert engine.docker("run", "--rm", "of-llb", "cat", "/said").strip() == "hello"


async def test_commands_have_secrets_caches_and_limits(client: Client) -> None:
    client.secrets["word"] = b"quiet"
    graph = Graph()
    base = graph.source("docker-image://busybox")
    cache = wire.Mount(
        input=NOTHING, output=NOTHING, destination="/c", kind=CACHE, cache=wire.CacheMountOptions(id=client.id)
    )
    secret = wire.Mount(
        input=NOTHING, output=NOTHING, destination="/s", kind=SECRET, secret=wire.SecretOptions(id="word", mode=0o400)
    )
    first = graph.run(base, "cat /s > /c/kept; test $(wc -c < /s) = 5; ls / > /names", cache, secret)
    second = graph.run((first, 0), "cp /c/kept /kept; exit 3", cache, valid_exit_codes=[3])
    failing = graph.run((second, 0), "exit 3")
    async with gateway(client) as build:
        ref = await build.solve(graph.ending((second, 0)))
        assert await build.read(ref, "kept") == "quiet"
        assert "s" in (await build.read(ref, "names")).split()
        assert "s" not in await build.names(ref)
        with pytest.raises(CallFailed, match="did not complete successfully: exit code: 3"):
            await build.solve(graph.ending((failing, 0)))


async def test_a_command_whose_cache_is_ignored_has_new_caches_and_relative_mounts(client: Client) -> None:
    graph = Graph()
    base = graph.source("docker-image://busybox")
    cache = wire.Mount(
        input=NOTHING, output=NOTHING, destination="c", kind=CACHE, cache=wire.CacheMountOptions(id=client.id)
    )
    first = graph.run(base, "touch /root/c/one && ls /root/c > /names", cache, folder="/root")
    second = graph.run((first, 0), "touch /root/c/two && ls /root/c > /names", cache, folder="/root")
    third = graph.run((second, 0), "ls /root/c > /names", cache, folder="/root")
    graph.metadata[second] = wire.OpMetadata(ignore_cache=True)
    async with gateway(client) as build:
        assert await build.read(await build.solve(graph.ending((first, 0))), "names") == "one\n"
        assert await build.read(await build.solve(graph.ending((third, 0))), "names") == "two\n"


async def test_an_error_tells_where_in_the_clients_own_source_it_is(client: Client) -> None:
    graph = Graph()
    failing = graph.run(graph.source("docker-image://busybox"), "exit 4")
    definition = graph.ending((failing, 0))
    definition.source.infos.add(filename="main.go", data=b"package main", language="Go")
    place = definition.source.locations[failing].locations.add(source_index=0)
    place.ranges.add().start.line = 7
    async with gateway(client) as build:
        with pytest.raises(CallFailed) as caught:
            await build.solve(definition)
    told = wire.RpcStatus.FromString(caught.value.details)
    (source,) = (json.loads(one.value) for one in told.details if "Source" in one.type_url)
    assert source["info"]["filename"] == "main.go"
    assert source["ranges"][0]["start"]["line"] == 7


async def test_what_is_not_granted_is_not_done(client: Client) -> None:
    graph = Graph()
    root = wire.Mount(input=0, destination="/", output=0)
    meta = wire.ExecMeta(args=["/bin/true"], cwd="/")
    about = wire.ExecOp(meta=meta, mounts=[root], security=1)
    privileged = graph.add(wire.Op(exec=about), graph.source("docker-image://busybox"))
    async with gateway(client) as build:
        with pytest.raises(CallFailed, match=r"security\.insecure is not allowed"):
            await build.solve(graph.ending(privileged))


async def test_acts_on_files_are_one_layer_and_do_what_they_say(client: Client) -> None:
    graph = Graph()
    root = wire.Ownership(user=wire.Owner(by_id=7), group=wire.Owner(by_id=8))
    below = graph.files(None, written("/gone", "x"), written("/kept", "x"))
    made = graph.files(
        below,
        wire.FileAction(make_dir=wire.FileMakeDir(path="/a/b", mode=0o750, parents=True, owner=root, timestamp=-1)),
        written("/a/b/one", "1"),
        wire.FileAction(symlink=wire.FileLink(target="b/one", path="/a/link", timestamp=5 * 10**9)),
        copied("/a", "/"),
        wire.FileAction(remove=wire.FileRemove(path="/g*", allow_wildcard=True)),
        extra=(graph.files(None, wire.FileAction(make_dir=wire.FileMakeDir(path="/a", mode=0o700, timestamp=-1))),),
    )
    async with gateway(client) as build:
        ref = await build.solve(graph.ending(made))
        assert await build.names(ref) == ["a", "kept"]
        assert await build.read(ref, "/a/link") == "1"
        folder = await build.stat(ref, "/a/b")
        assert (folder.uid, folder.gid, folder.mode & 0o777) == (7, 8, 0o750)
        with pytest.raises(CallFailed, match="open /no/file: no such file or directory"):
            await build.solve(graph.ending(graph.files(None, written("/no/file", "x"))))


async def test_where_a_copied_directory_goes_depends_on_what_is_there(client: Client) -> None:
    graph = Graph()
    folder = wire.FileMakeDir(path="/d/in", mode=0o755, parents=True, timestamp=-1)
    source = graph.files(None, wire.FileAction(make_dir=folder), written("/d/file", "x"), written("/d/in/no", "x"))
    other = graph.files(None, copied("/d", "/new", 0), extra=(source,))
    again = graph.files(other, copied("/d", "/new"), extra=(source,))
    inside = graph.files(again, copied("/d", "/new", contents_only=True, exclude=["in"]), extra=(source,))
    chosen = graph.files(None, copied("/d", "/", 0, include=["in"]), extra=(source,))
    async with gateway(client) as build:
        assert await build.names(await build.solve(graph.ending(other)), "/new") == ["file", "in"]
        assert await build.names(await build.solve(graph.ending(again)), "/new") == ["d", "file", "in"]
        assert await build.names(await build.solve(graph.ending(inside)), "/new") == ["d", "file", "in"]
        assert await build.names(await build.solve(graph.ending(chosen)), "/d") == ["in"]
        with pytest.raises(CallFailed, match="not found"):
            await build.solve(graph.ending(graph.files(None, copied("/none", "/", 0), extra=(source,))))


async def test_what_is_unpacked_belongs_to_whom_the_copy_says(client: Client) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("one"))
    graph = Graph()
    source = graph.files(None, written("/held.tar", packed.getvalue().decode("ascii")))
    owner = wire.Ownership(user=wire.Owner(by_id=7), group=wire.Owner(by_id=8))
    given = graph.files(None, copied("/held.tar", "/out/", 0, unpack=True, owner=owner), extra=(source,))
    kept = graph.files(None, copied("/held.tar", "/out/", 0, unpack=True), extra=(source,))
    async with gateway(client) as build:
        for made, who in ((given, (7, 8)), (kept, (0, 0))):
            found = await build.stat(await build.solve(graph.ending(made)), "/out/one")
            assert (found.uid, found.gid) == who


async def test_file_systems_are_merged_and_taken_apart(client: Client) -> None:
    graph = Graph()
    one = graph.files(None, written("/one", "1"), written("/both", "of one"))
    two = graph.files(None, written("/two", "2"), written("/both", "of two"))
    merged = graph.merge(one, two)
    changed = graph.files(merged, wire.FileAction(remove=wire.FileRemove(path="/one")), written("/three", "3"))
    difference = graph.difference(merged, changed)
    third = graph.merge(one, difference)
    compared = graph.difference(one, two)
    async with gateway(client) as build:
        assert await build.read(await build.solve(graph.ending(merged)), "both") == "of two"
        assert await build.names(await build.solve(graph.ending(difference))) == ["three"]
        assert await build.names(await build.solve(graph.ending(third))) == ["both", "three"]
        assert await build.names(await build.solve(graph.ending(compared))) == ["both", "two"]
        put_back = await build.solve(graph.ending(graph.merge(one, compared)))
        assert await build.names(put_back) == ["both", "two"]
        assert await build.read(put_back, "both") == "of two"


async def test_a_difference_says_what_is_other_and_no_more(client: Client) -> None:
    graph = Graph()
    busybox = graph.source("docker-image://busybox")
    before = graph.run(busybox, "mkdir -p /d/in /e; echo a > /d/a; echo b > /d/b; echo c > /d/in/c; ln /d/a /e/a")
    script = "mv /d/a /x; mv /x /d/a; rm -r /d/in; mkdir /d/in; echo n > /d/in/n; rm /d/b; rm -r /e"
    after = graph.run((before, 0), script)
    difference = graph.difference((before, 0), (after, 0))
    folder = wire.FileAction(make_dir=wire.FileMakeDir(path="/d/in", mode=0o755, parents=True))
    files = [written(path, "other") for path in ("/d/b", "/d/in/c", "/d/in/kept")]
    other = graph.files(None, folder, *files)
    merged = graph.merge(other, difference)
    async with gateway(client) as build:
        alone = await build.solve(graph.ending(difference))
        assert await build.names(alone) == ["d"]
        assert await build.names(alone, "/d") == ["in"]
        assert await build.names(alone, "/d/in") == ["n"]
        ref = await build.solve(graph.ending(merged))
        whole = await build.solve(graph.ending(graph.merge(other, (after, 0))))
        assert await build.names(whole, "/d/in") == ["kept", "n"]
        assert await build.names(ref, "/d") == ["in"]
        assert await build.names(ref, "/d/in") == ["kept", "n"]


async def test_a_definition_in_a_circle_and_one_without_an_end_are_refused(client: Client) -> None:
    graph = Graph()
    one = graph.files(None, written("/one", "1"))
    async with gateway(client) as build:
        with pytest.raises(CallFailed, match="is not in it"):
            await build.solve(graph.ending((f"sha256:{'0' * 64}", 0)))
        with pytest.raises(CallFailed, match="has no output 9"):
            await build.solve(graph.ending((one[0], 9)))


async def test_a_client_says_what_its_result_is_as_an_image(client: Client, engine: EngineProcess) -> None:
    graph = Graph()
    made = graph.run(graph.source("docker-image://busybox"), "echo x > /x")
    config = {"architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"], "Cmd": ["/bin/sh", "-c", "echo $A"]}}
    exporter = wire.Exporter(type="moby", attrs={"name": "of-metadata"})
    when = {"build-arg:SOURCE_DATE_EPOCH": "1000000000"}
    async with gateway(client, exporters=[exporter], frontend_attrs=when) as build:
        result = wire.Result(ref=wire.Ref(id=await build.solve(graph.ending((made, 0)))))
        result.metadata["containerimage.config"] = json.dumps(config).encode()
        result.metadata["frontend.said"] = b"yes"
        build.result = result
    assert engine.docker("run", "--rm", "of-metadata") == "b\n"
    assert dict(build.told)["frontend.said"] == "yes"
    image = engine.inspect("of-metadata")
    assert image["Created"].startswith("2001-09-09")
    history = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", "of-metadata").splitlines()
    assert history[0] == "/bin/sh -c echo x > /x"
    assert len(history) == len(image["RootFS"]["Layers"])


async def test_a_definition_of_nothing_comes_to_nothing(client: Client) -> None:
    async with gateway(client) as build:
        assert await build.solve(wire.Definition()) == ""


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("containerimage.config", b"null", "invalid null image config for export"),
        ("containerimage.config", b'{"os": "linux"}', "os and architecture must be specified together"),
        ("refs.platforms", b"null", "invalid empty platforms index for exporter"),
        ("refs.platforms", b'{"Platforms": [{}]}', "invalid empty platform key for exporter"),
        ("refs.platforms", b'{"Platforms": [{"ID": "x"}]}', "invalid platform value"),
    ],
)
async def test_metadata_that_make_no_sense_are_refused(client: Client, name: str, value: bytes, said: str) -> None:
    with pytest.raises(CallFailed, match=said):
        async with gateway(client) as build:
            build.result = wire.Result(metadata={name: value})


async def test_a_dockerfile_in_a_definition_is_checked_and_built_as_any(client: Client) -> None:
    graph = Graph()
    context = graph.files(None, written("/Dockerfile", "from busybox\nCOPY file /\n"), written("/file", "x"))
    inputs = {"dockerfile": graph.ending(context), "context": graph.ending(context)}
    async with gateway(client) as build:
        lint = {"requestid": "frontend.lint"}
        asked = wire.SolveRequest(frontend="dockerfile.v0", frontend_inputs=inputs, frontend_opt=lint)
        answer = wire.SolveResponse.FromString(await build.ask("Solve", asked.SerializeToString())).result
        assert b"ConsistentInstructionCasing" in answer.metadata["result.json"]
        asked = wire.SolveRequest(frontend="dockerfile.v0", frontend_inputs=inputs)
        answer = wire.SolveResponse.FromString(await build.ask("Solve", asked.SerializeToString())).result
        assert await build.read(answer.ref.id, "/file") == "x"
        nil = wire.SolveRequest(frontend="dockerfile.v0", frontend_inputs={"context": wire.Definition()})
        with pytest.raises(CallFailed, match="invalid nil input definition to definition op"):
            await build.ask("Solve", nil.SerializeToString())


def rule(action: int, pattern: str, instead: str = "") -> wire.SourceRule:
    made = wire.SourceRule(action=action, selector=wire.SourceSelector(identifier=pattern))
    if instead:
        made.updates.identifier = instead
    return made


ALLOW, DENY, CONVERT = range(3)
LIBRARY = "docker-image://docker.io/library/"


async def test_a_policy_denies_sources_and_puts_others_in_their_place(client: Client, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("of the other\n")
    client.directories["other"] = other
    (client.directories["context"] / "file").write_text("its own\n")
    graph = Graph()
    mine = graph.files(None, copied("/file", "/", 0), extra=(graph.source("local://context"),))
    image = graph.run(graph.source("docker-image://docker.io/library/none:1"), "echo $PATH > /said")
    rules = [
        rule(DENY, "*"),
        rule(ALLOW, f"{LIBRARY}busybox:*"),
        rule(ALLOW, "local://other"),
        rule(CONVERT, "local://context", "local://other"),
        rule(CONVERT, f"{LIBRARY}none:*", f"{LIBRARY}busybox:latest"),
    ]
    dockerfile = "FROM none:1 AS one\nCOPY file /f\nRUN grep other /f\n"
    (client.directories["context"] / "Dockerfile").write_text(dockerfile)
    async with gateway(client, source_policy=wire.SourcePolicy(rules=rules)) as build:
        assert await build.read(await build.solve(graph.ending(mine)), "file") == "of the other\n"
        assert "/bin" in await build.read(await build.solve(graph.ending((image, 0))), "said")
        asked = wire.ResolveImageConfigRequest(ref="none:2").SerializeToString()
        answer = wire.ResolveImageConfigResponse.FromString(await build.ask("ResolveImageConfig", asked))
        assert answer.ref == "docker.io/library/busybox:latest"
        assert b'"architecture"' in answer.config
        asked = wire.SolveRequest(frontend="dockerfile.v0", evaluate=True).SerializeToString()
        assert wire.SolveResponse.FromString(await build.ask("Solve", asked)).result.ref.id
        denied = graph.source("https://example.com/x")
        with pytest.raises(CallFailed, match=r'source "https://example\.com/x" denied by policy'):
            await build.solve(graph.ending(graph.files(None, copied("/x", "/", 0), extra=(denied,))))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([rule(CONVERT, "a*", "ab$1")], "too many operations"),
        ([rule(CONVERT, "a")], "missing destination for convert rule"),
        ([rule(DENY, "**")], "invalid wildcard"),
        ([wire.SourceRule(action=DENY, selector=wire.SourceSelector(identifier="(", match_type=2))], "invalid regex"),
    ],
)
def test_policies_that_make_no_sense_are_refused(given: list[wire.SourceRule], said: str) -> None:
    with pytest.raises(InvalidParameter, match=said):
        policy_of([wire.SourcePolicy(rules=given)]).applied("a", {})


def test_what_a_pattern_has_found_is_in_what_is_taken_instead() -> None:
    selector = wire.SourceSelector(identifier=r"^https://([a-z]+)\.org/(?P<rest>.*)$", match_type=2)
    updates = wire.SourceUpdate(identifier="https://mirror/$1/${rest}$$", attrs={"http.checksum": "sha256:1"})
    policy = policy_of([wire.SourcePolicy(rules=[wire.SourceRule(action=CONVERT, selector=selector, updates=updates)])])
    assert policy.applied("https://a.org/b", {"x": "y"}) == (
        "https://mirror/a/b$",
        {"x": "y", "http.checksum": "sha256:1"},
    )
