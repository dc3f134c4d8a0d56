"""Every command and flag of the stock client is ours too, under the same names and with the same kind of value."""

import functools
import os
import re
import subprocess
import sys

import pytest

# what belongs to swarm, plugins and signing, which have no part in a single engine
ABSENT = {"config", "manifest", "node", "plugin", "secret", "service", "stack", "swarm", "trust", "buildx"}
ABSENT_COMMANDS = {"volume update"}
ABSENT_FLAGS = {
    ("volume create", name)
    for name in (
        "availability group limit-bytes required-bytes scope secret sharing topology-preferred topology-required type"
    ).split()
} | {("volume ls", "cluster")}
# Go prints these for values that are empty anyway
EMPTY = ("map[]", "[]", "0s", "0")

Row = tuple[str | None, str | None, str | None]


def help_of(program: list[str], *words: str) -> str:
    """What `--help` says, without an engine."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "DOCKER_HOST": "unix:///nonexistent.sock"}
    done = subprocess.run([*program, *words, "--help"], capture_output=True, text=True, check=False, env=environment)
    return (done.stdout or done.stderr).replace("dockyard", "docker")


@functools.cache
def theirs(*words: str) -> str:
    """The stock client's help."""
    return help_of(["docker"], *words)


@functools.cache
def ours(*words: str) -> str:
    """Our help."""
    return help_of([sys.executable, "-m", "dockyard.cli.main"], *words)


def commands_of(text: str) -> list[str]:
    """The commands that a help text lists."""
    blocks = re.findall(r"^(?:[A-Z][a-z]+ )?Commands:\n((?:  .*\n)+)", text, re.MULTILINE)
    return [name.rstrip("*") for block in blocks for name in re.findall(r"^  (\S+) ", block, re.MULTILINE)]


def flags_of(text: str) -> dict[str, Row]:
    """Flag -> its letter, the type of its value, its default."""
    joined = re.sub(r"\n {16,}", " ", text.partition("Options:\n")[2])
    found: dict[str, Row] = {}
    for line in joined.split("\n"):
        match = re.match(r"^  (?:-(\w), |    )--([a-z0-9-]+)(?: (\S+))?(?:  +(.*))?$", line)
        if match:
            default = re.search(r"\(default ([^)]*)\)$", match[4] or "")
            shown = default[1] if default and default[1] not in EMPTY else None
            found[match[2]] = (match[1], match[3], shown and shown.replace("/nonexistent", "~"))
    return found


def every_command() -> list[str]:
    """The commands of the stock client, as typed."""
    found = []
    for name in commands_of(theirs()):
        if name in ABSENT:
            continue
        below = commands_of(theirs(name))
        found += [f"{name} {word}" for word in below] or [name]
    return [name for name in found if name not in ABSENT_COMMANDS]


@pytest.fixture(scope="module")
def commands() -> list[str]:
    """Every command of the stock client."""
    return every_command()


def test_every_command_has_the_same_flags(commands: list[str]) -> None:
    assert len(commands) > 100
    wrong = []
    for command in commands:
        mine = flags_of(ours(*command.split()))
        for name, row in flags_of(theirs(*command.split())).items():
            if (command, name) in ABSENT_FLAGS or name == "kernel-memory":
                continue
            if mine.get(name) != row and not (name == "all" and command in ("images", "image ls")):
                wrong.append(f"{command} --{name}: {row} with docker, {mine.get(name)} with us")
    assert wrong == []


def test_every_command_has_the_same_usage_line_and_aliases(commands: list[str]) -> None:
    wrong = []
    for command in commands:
        texts = theirs(*command.split()), ours(*command.split())
        lines = [re.search(r"Usage:  (.*)", text) for text in texts]
        known = [re.search(r"Aliases:\n(.*)", text) for text in texts]
        for pair in (lines, known):
            one, two = (found[1].replace(" [OPTIONS]", "") if found else "" for found in pair)
            if one != two:
                wrong.append(f"{command}: {one!r} with docker, {two!r} with us")
    assert wrong == []


def test_long_descriptions_are_wrapped_as_the_width_allows() -> None:
    assert max(len(line) for line in ours("run").split("\n")) < 80
    table = ours("run").partition("Options:\n")[2].split("\n")
    names = [match[1] for match in (re.match(r"^.{6}--([a-z0-9-]+)", line) for line in table) if match]
    assert names == sorted(names)


def test_global_options_are_the_same() -> None:
    mine, others = flags_of(ours()), flags_of(theirs())
    assert {name: row for name, row in mine.items() if name != "no-autostart"} == others


@pytest.mark.parametrize("words", [(), ("container",), ("system",)])
def test_what_commands_are_stands_in_one_column(words: tuple[str, ...]) -> None:
    blocks = re.findall(r"Commands:\n((?:  .*\n)+)", ours(*words))
    assert blocks
    for block in blocks:
        assert len({len(re.match(r"  \S+ +", line)[0]) for line in block.splitlines()}) == 1  # type: ignore[index]
