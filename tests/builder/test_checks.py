"""Build checks, one Dockerfile each; what they say is BuildKit's."""

import pytest

from dockyard.dockerfile import parser
from dockyard.dockerfile.checks import check, options_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a AS Base", [("StageNameCasing", 1)]),
        ("FROM a as b", [("FromAsCasing", 1)]),
        ("FROM a\nRUN x \\\n\n  y", [("NoEmptyContinuation", 4)]),
        ("FROM a\nrun x\nRUN y", [("ConsistentInstructionCasing", 2)]),
        ("from a\nrun x", []),
        ("FROM a AS b\nFROM a AS b", [("DuplicateStageName", 2)]),
        ("FROM a AS scratch", [("ReservedStageName", 1)]),
        ("FROM a\nCMD x", [("JSONArgsRecommended", 2)]),
        ('FROM a AS b\nSHELL ["x"]\nFROM b\nCMD x', []),
        ("FROM a\nMAINTAINER me", [("MaintainerDeprecated", 2)]),
        ("FROM $b", [("InvalidDefaultArgInFrom", 1), ("UndefinedArgInFrom", 1)]),
        ("ARG b=a\nFROM $b", []),
        ("FROM a\nWORKDIR x\nWORKDIR y", [("WorkdirRelativePath", 2)]),
        ('FROM a\nCMD ["x"]\nCMD ["y"]', [("MultipleInstructionsDisallowed", 2)]),
        ("FROM a\nENV x y", [("LegacyKeyValueFormat", 2)]),
        ("FROM --platform=$TARGETPLATFORM a", [("RedundantTargetPlatform", 1)]),
        (
            "FROM a\nARG API_KEY\nARG PUBLIC_KEY\nENV TOKEN=x",
            [("SecretsUsedInArgOrEnv", 2), ("SecretsUsedInArgOrEnv", 4)],
        ),
        ("FROM --platform=linux/arm64 a", [("FromPlatformFlagConstDisallowed", 1)]),
        ("FROM --platform=linux/arm64 a AS on-arm64", []),
        ("FROM a\nEXPOSE 80/TCP", [("ExposeProtoCasing", 2)]),
        ("FROM a\nEXPOSE 127.0.0.1:80:80", [("ExposeInvalidFormat", 2)]),
        ("# check=skip=JSONArgsRecommended\nFROM a\nCMD x", []),
        ("# check=skip=all\nFROM a as B\ncmd x", []),
    ],
)
def test_what_is_found(text: str, expected: list[tuple[str, int]]) -> None:
    file = parser.parse(text)
    assert sorted((one.rule, one.line) for one in check(file, options_of(file.check))) == expected


def test_every_rule_has_its_page() -> None:
    file = parser.parse("FROM a\nCMD x")
    assert check(file, options_of(""))[0].url == "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
