"""Build checks, one Dockerfile each, through BuildKit's door; what they say is BuildKit's."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.dockerfile.checks import DESCRIPTIONS, Violation, options_of
from dockyard.errors import InvalidParameter
from tests.buildkit_client import Client
from tests.engine_process import EngineProcess


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("engine"), number=42) as process:
        yield process


@pytest.fixture
def client(engine: EngineProcess, tmp_path: Path) -> Client:
    return Client(engine.socket, tmp_path, key=str(tmp_path))


async def found(client: Client, text: str, **options: str) -> list[tuple[str, int]]:
    """Rules and lines of what `--check` finds."""
    (client.directories["context"] / "Dockerfile").write_text(text)
    built = await client.build({"requestid": "frontend.lint", **options}, exporter="")
    assert built.warnings == []  # they are the answer
    answer = json.loads(built.metadata["result.json"])
    return sorted((one["ruleName"], one["location"]["ranges"][0]["start"]["line"]) for one in answer["warnings"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM scratch AS Base", [("StageNameCasing", 1)]),
        ("FROM scratch as b", [("FromAsCasing", 1)]),
        ("FROM scratch\nLABEL x=y \\\n\n  z=y", [("NoEmptyContinuation", 4)]),
        ("FROM scratch\nuser x\nUSER y", [("ConsistentInstructionCasing", 2)]),
        ("from scratch\nuser x", []),
        ("FROM scratch AS b\nFROM scratch AS b", [("DuplicateStageName", 2)]),
        ("FROM scratch AS context", [("ReservedStageName", 1)]),
        ("FROM scratch\nCMD x", [("JSONArgsRecommended", 2)]),
        ('FROM scratch AS b\nSHELL ["x"]\nFROM b\nCMD x', []),
        ('FROM scratch\nCMD x\nSHELL ["x"]\nENTRYPOINT y', [("JSONArgsRecommended", 2)]),
        ("FROM scratch\nMAINTAINER me", [("MaintainerDeprecated", 2)]),
        ("FROM scratch$b", [("UndefinedArgInFrom", 1)]),
        ("ARG b\nFROM scratch$b", []),
        ("ARG b=:\nFROM a$b", [("InvalidDefaultArgInFrom", 2)]),
        ("FROM scratch\nWORKDIR x\nWORKDIR y", [("WorkdirRelativePath", 2)]),
        ("FROM scratch AS a\nWORKDIR /x\nFROM a\nWORKDIR y", []),
        ("FROM scratch\nWORKDIR $w", [("UndefinedVar", 2), ("WorkdirRelativePath", 2)]),
        ('FROM scratch\nCMD ["x"]\nCMD ["y"]', [("MultipleInstructionsDisallowed", 2)]),
        ("FROM scratch\nENV x y", [("LegacyKeyValueFormat", 2)]),
        ("FROM --platform=$TARGETPLATFORM scratch", [("RedundantTargetPlatform", 1)]),
        (
            "FROM scratch\nARG API_KEY\nARG PUBLIC_KEY\nENV TOKEN=x",
            [("SecretsUsedInArgOrEnv", 2), ("SecretsUsedInArgOrEnv", 4)],
        ),
        ("FROM --platform=linux/arm64 scratch", [("FromPlatformFlagConstDisallowed", 1)]),
        ("FROM --platform=linux/arm64 scratch AS on-arm64", []),
        ("FROM scratch\nARG p=80/TCP\nEXPOSE $p", [("ExposeProtoCasing", 3)]),
        ("FROM scratch\nEXPOSE 127.0.0.1:80:80", [("ExposeInvalidFormat", 2)]),
        ("FROM scratch\nARG a\nENV x=$a y=${b:-z} b=1\nLABEL z=$b", [("UndefinedVar", 3)]),
        ("FROM scratch\nCOPY <<one <<'two' /\n$x\none\n$y\ntwo", [("UndefinedVar", 2)]),
        ("# check=skip=JSONArgsRecommended\nFROM scratch\nCMD x", []),
        ("# check=skip=all\nFROM scratch as B\ncmd x", []),
        ("# about\nFROM scratch AS b", []),
        ("# check=experimental=all\n# about\nFROM scratch AS b", [("InvalidDefinitionDescription", 3)]),
        ("# check=experimental=all\n# b is a stage\nFROM scratch AS b\n# x\n#\nARG x", []),
        ("# check=skip=all;experimental=all\nFROM scratch\n# z\nARG x y", [("InvalidDefinitionDescription", 4)]),
        ("FROM scratch AS one\nCMD x\nFROM scratch", [("JSONArgsRecommended", 2)]),
    ],
)
async def test_what_is_found(client: Client, text: str, expected: list[tuple[str, int]]) -> None:
    assert await found(client, text) == expected


async def test_only_stages_that_the_target_needs_are_gone_through(client: Client) -> None:
    text = "FROM scratch AS one\nCMD x\nFROM scratch AS two"
    assert await found(client, text, target="two") == []
    built = await client.build()
    assert built.warnings == []


async def test_files_that_stay_behind_are_found_where_it_is_asked_for(client: Client) -> None:
    (client.directories["context"] / ".dockerignore").write_text("secret\n*.md\n!README.md\n")
    text = "FROM scratch\nCOPY secret/x README.md /a/\nADD b.md /\nCOPY --from=busybox secret /"
    assert await found(client, text) == []
    assert await found(client, f"# check=experimental=CopyIgnoredFile\n{text}") == [
        ("CopyIgnoredFile", 3),
        ("CopyIgnoredFile", 4),
    ]


async def test_what_is_found_can_be_an_error(client: Client) -> None:
    (client.directories["context"] / "Dockerfile").write_text("# check=error=true\nFROM scratch\nLABEL a b\nCMD x")
    built = await client.build()
    assert built.failure is not None
    assert built.failure.message == ("lint violation found for rules: LegacyKeyValueFormat, JSONArgsRecommended")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("skip", 'invalid check option "skip"'),
        ("all=x", 'invalid check option "all"'),
        (
            "error=maybe",
            'failed to parse check option "error=maybe": strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
    ],
)
def test_options_that_are_none_are_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        options_of(text)
    assert str(refused.value) == reason


def test_every_rule_has_its_page_but_one() -> None:
    pages = {rule: Violation(rule, "", 1).url for rule in DESCRIPTIONS}
    assert pages["JSONArgsRecommended"] == "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
    assert [rule for rule, page in pages.items() if not page] == ["InvalidBaseImagePlatform"]


async def test_a_base_for_another_platform_is_told_of(engine: EngineProcess, client: Client) -> None:
    (client.directories["context"] / "Dockerfile").write_text("FROM scratch\nLABEL a=b\n")
    assert (await client.build({"platform": "linux/s390x"}, names="localhost:1/other:1")).image
    assert await found(client, "FROM localhost:1/other:1") == [("InvalidBaseImagePlatform", 1)]
    assert await found(client, "FROM --platform=linux/s390x localhost:1/other:1 AS s390x") == []
