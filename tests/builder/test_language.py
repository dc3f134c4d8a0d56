"""What instructions do to files, configurations and histories, through BuildKit's door; expectations are BuildKit's."""

import asyncio
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.buildkit_client import Client
from tests.engine_process import EngineProcess
from tests.processes import eventually


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("engine"), number=43) as process:
        yield process


@pytest.fixture
def client(engine: EngineProcess, tmp_path: Path) -> Client:
    return Client(engine.socket, tmp_path, key=str(tmp_path))


def write(client: Client, dockerfile: str) -> None:
    (client.directories["context"] / "Dockerfile").write_text(dockerfile)


async def test_a_step_has_hosts_and_resolvers_that_it_cannot_change_and_nothing_of_a_containers_own(
    engine: EngineProcess, client: Client
) -> None:
    write(
        client,
        "FROM busybox AS made\n"
        "RUN cp /etc/hosts /h && grep -c nameserver /etc/resolv.conf > /r\n"
        "RUN ! echo x >> /etc/hosts; ! echo x > /etc/resolv.conf; ls -A / /etc > /l\n"
        "FROM busybox\nCOPY --from=made /h /r /l /seen/\n",
    )
    image = (await client.build({"add-hosts": "there=1.2.3.4"})).image
    hosts = engine.docker("run", "--rm", image, "cat", "/seen/h")
    assert hosts == (
        "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n1.2.3.4\tthere\n"
    )
    assert int(engine.docker("run", "--rm", image, "cat", "/seen/r")) > 0
    listed = engine.docker("run", "--rm", image, "cat", "/seen/l").split()
    assert not {".dockerenv", "hostname", "mtab"} & set(listed)


async def test_a_linked_copy_leaves_directories_of_the_base_as_they_are(client: Client) -> None:
    context = client.directories["context"]
    (context / "one").write_text("1")
    (context / "folder" / "inner").mkdir(parents=True)
    write(
        client,
        "FROM busybox\nRUN mkdir -m 700 /own /open && chown 5:6 /own && mkdir -p -m 711 /a/b\n"
        "COPY --link --chown=1:2 one /own/one\nCOPY --link --chown=1:2 folder /own\n"
        "COPY --link one /open/\n"
        "COPY --link --chmod=604 one /a/b/c/d/one\nCOPY --link --chown=3:4 one /new/x/one\n"
        "RUN stat -c '%n %a %u:%g' /own /own/one /own/inner /open /a/b /a/b/c /a/b/c/d /a/b/c/d/one /new /new/x\n",
    )
    built = await client.build()
    assert built.image
    said = built.log.decode().splitlines()
    assert said == [
        "/own 700 5:6",
        "/own/one 644 1:2",
        "/own/inner 755 1:2",
        "/open 700 0:0",
        "/a/b 711 0:0",
        "/a/b/c 604 0:0",
        "/a/b/c/d 604 0:0",
        "/a/b/c/d/one 604 0:0",
        "/new 755 3:4",
        "/new/x 755 3:4",
    ]


async def test_workdir_makes_the_users_directories_and_is_as_short_as_it_can_be(
    engine: EngineProcess, client: Client
) -> None:
    write(
        client,
        "FROM busybox\nUSER 7:8\nWORKDIR /w/x/../y\nRUN stat -c '%n %u:%g' /w . && [ ! -e /w/x ]\nWORKDIR /\n",
    )
    built = await client.build(names="work:1")
    assert built.image
    assert built.log.decode().split() == ["/w", "7:8", ".", "7:8"]
    history = [line["CreatedBy"] for line in engine.api("GET", "/images/work:1/history")[1]]
    assert history[:3] == [
        "WORKDIR /",
        "RUN /bin/sh -c stat -c '%n %u:%g' /w . && [ ! -e /w/x ] # buildkit",
        "WORKDIR /w/y",
    ]


async def test_what_is_demanded_of_an_argument_is_said_unless_the_client_gives_it(client: Client) -> None:
    write(client, 'ARG base=busy${box:?which}\nFROM $base\nARG who="${nobody?tell me}" same\nRUN echo for $who\n')
    asked = {"build-arg:base": "busybox", "build-arg:who": "you"}
    assert (await client.build(asked)).log == b"for you\n"
    missing = await client.build({"build-arg:base": "busybox"})
    assert missing.failure is not None
    assert missing.failure.message == 'failed to process "\\"${nobody?tell me}\\"": nobody: tell me'


async def test_flags_are_words_with_quotes_and_documents_have_their_names(
    engine: EngineProcess, client: Client
) -> None:
    (client.directories["context"] / "a b").write_text("blank\n")
    write(
        client,
        "# escape=`\nFROM busybox\n"
        'RUN --mount=type=bind,source="a b",target=/m`\n # within\n  cat /m\n'
        "ARG where=/x`\n/y z=1\n"
        "COPY <<-end <<'raw' /d/\n\t$where \\$z\nend\n\t$where\nraw\n"
        'ENV one="a `"b" two=c`d\nRUN cat /d/end /d/raw; echo "$one$two"\n'
        "HEALTHCHECK --interval=2s --retries=3 CMD true\nEXPOSE 81/UDP 80\n",
    )
    built = await client.build(names="words:1")
    assert built.image
    assert built.log.decode() == 'blank\n/x/y $z\n\t$where\na "bcd\n'
    history = [line["CreatedBy"] for line in engine.api("GET", "/images/words:1/history")[1]]
    assert history[:2] == [
        "EXPOSE [80/tcp 81/udp]",
        'HEALTHCHECK &{["CMD-SHELL" "true"] "2s" "0s" "0s" "0s" \'\\x03\'}',
    ]


async def test_what_an_archive_holds_belongs_to_whom_add_says(client: Client) -> None:
    with tarfile.open(client.directories["context"] / "held.tar", "w") as archive:
        for name in ("d/one", "two"):
            member = tarfile.TarInfo(name)
            member.uid, member.gid = 5, 6
            archive.addfile(member, io.BytesIO())
    write(
        client,
        "FROM busybox\nADD held.tar /kept/\nADD --chown=7:8 held.tar /given/\n"
        "RUN stat -c '%n %u:%g' /kept/two /given/two /given/d/one /given\n",
    )
    built = await client.build()
    assert built.log.decode().splitlines() == ["/kept/two 5:6", "/given/two 7:8", "/given/d/one 7:8", "/given 7:8"]


async def test_a_context_whose_client_has_no_key_for_it_is_not_kept(engine: EngineProcess, tmp_path: Path) -> None:
    def kept() -> int:
        records = engine.api("GET", "/system/df?type=build-cache")[1]["BuildCache"] or []
        return sum(record["Type"] == "source.local" for record in records)

    before = kept()
    (tmp_path / "file").write_text("x")
    for key in ("", "named"):
        client = Client(engine.socket, tmp_path, key=key)
        write(client, "FROM scratch\nCOPY file /\n")
        assert (await client.build()).image
        await asyncio.to_thread(eventually, lambda wanted=before + bool(key): kept() == wanted)


async def test_stages_that_read_each_other_in_a_circle_are_refused(client: Client) -> None:
    write(client, "FROM busybox AS one\nCOPY --from=two /a /b\nFROM busybox AS two\nCOPY --from=one /a /b\n")
    built = await client.build()
    assert built.failure is not None
    assert built.failure.message == "circular dependency detected on stage: one"


async def test_devices_are_given_by_name_to_whom_they_are_allowed(tmp_path: Path) -> None:
    described = tmp_path / "cdi"
    described.mkdir()
    device = '{"name": "%s", "containerEdits": {"env": ["%s=given"]}, "annotations": %s}'
    own = device % ("own", "OWN", '{"org.mobyproject.buildkit.device.autoallow": true}')
    other = device % ("other", "OTHER", "{}")
    text = f'{{"cdiVersion": "0.6.0", "kind": "vendor.com/kind", "devices": [{own}, {other}]}}'
    (described / "vendor.json").write_text(text)
    (tmp_path / "context").mkdir()
    engine = EngineProcess(tmp_path / "engine", number=45, arguments=(f"--cdi-spec-dir={described}",))
    try:
        engine.start()
        engine.docker("pull", "busybox")
        client = Client(engine.socket, tmp_path / "context", key=str(tmp_path))
        flags = "--device=vendor.com/kind=own,required --device=vendor.com/kind=missing"
        write(client, f"FROM busybox\nRUN {flags} echo $OWN-$OTHER\n")
        assert (await client.build()).log == b"given-\n"
        write(client, "FROM busybox\nRUN --device=vendor.com/kind=* echo $OWN-$OTHER\n")
        refused = await client.build()
        assert refused.failure is not None
        assert refused.failure.message == "device vendor.com/kind=other is requested by the build but not allowed"
        for granted in ("device", "device=vendor.com/kind=other"):
            assert (await client.build({"no-cache": ""}, entitlements=[granted])).log == b"given-given\n"
        write(client, "FROM busybox\nRUN --device=mine,required echo $OTHER\n")
        allowed = await client.build(entitlements=["device=vendor.com/kind=other,alias=mine"])
        assert allowed.log == b"given\n"
        missing = await client.build()
        assert missing.failure is not None
        assert missing.failure.message == 'required device "mine" is not registered'
    finally:
        engine.clean_up()
