"""Completion, asked of the shells themselves: bash, zsh and fish load our script and complete a line."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess


@pytest.fixture(scope="module")
def named(engine: EngineProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EngineProcess, Path]]:
    """An engine with things to be named, and a folder that holds the program `dockyard` and a few files."""
    folder = tmp_path_factory.mktemp("completion")
    program = folder / "bin" / "dockyard"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dockyard.cli.main "$@"\n')
    program.chmod(0o755)
    (folder / "some-file").touch()
    engine.docker("run", "-d", "--name", "zebra-running", "busybox", "top")
    engine.docker("create", "--name", "zebra-made", "busybox", "top")
    engine.docker("network", "create", "zebra-net")
    engine.docker("volume", "create", "zebra-vol")
    engine.docker("tag", "busybox", "zebra/image:tag1")
    yield engine, folder
    engine.docker("rm", "-f", "zebra-running", "zebra-made")
    engine.docker("network", "rm", "zebra-net")
    engine.docker("volume", "rm", "zebra-vol")
    engine.docker("rmi", "zebra/image:tag1")


def environment(engine: EngineProcess, folder: Path) -> dict[str, str]:
    """What the shells see."""
    return {
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "HOME": str(folder),
        "DOCKER_HOST": engine.host,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "TERM": "dumb",
    }


def in_bash(engine: EngineProcess, folder: Path, line: str) -> list[str]:
    """What bash's completion function leaves in COMPREPLY."""
    words = line.split(" ")
    script = (
        'eval "$(dockyard completion bash)"\n'
        f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}\n"
        f'COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}\n_dockyard\nprintf "%s\\n" "${{COMPREPLY[@]}}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=True, env=environment(engine, folder)
    )
    return done.stdout.split("\n")[:-1]


def in_fish(engine: EngineProcess, folder: Path, line: str) -> list[str]:
    """What fish offers."""
    script = f"dockyard completion fish | source; complete -C '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        capture_output=True, text=True, check=True, env=environment(engine, folder), cwd=folder,
    )  # fmt: skip
    return [row.partition("\t")[0] for row in done.stdout.splitlines()]


def in_zsh(engine: EngineProcess, folder: Path, line: str) -> str:
    """The line that zsh makes of `line` and a Tab, typed to an interactive zsh."""
    master, slave = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=folder,
        env={**environment(engine, folder), "PS1": "> "},
    )  # fmt: skip
    os.close(slave)

    def wait_for(text: str) -> str:
        seen, deadline = "", time.monotonic() + 20
        while text not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([master], [], [], 0.2)[0]:
                seen += os.read(master, 65536).decode(errors="replace")
        return seen

    try:
        os.write(master, b"unsetopt zle_bracketed_paste; autoload -U compinit && compinit -u -D; ")
        os.write(master, b'source <(dockyard completion zsh); print ready-"$((1 + 1))"\n')
        wait_for("ready-2")
        os.write(master, b'function dockyard-show { print -r -- "<<$BUFFER>>"; }; zle -N dockyard-show; ')
        os.write(master, b"bindkey '^G' dockyard-show; print ready-\"$((2 + 1))\"\n")
        wait_for("ready-3")
        os.write(master, line.encode() + b"\t\x07")
        return wait_for(">>").rpartition("<<")[2].partition(">>")[0]
    finally:
        shell.kill()
        shell.wait()
        os.close(master)


CASES = [
    ("dockyard netw", {"network"}),
    ("dockyard container unpa", {"unpause"}),
    ("dockyard run --cap-a", {"--cap-add"}),
    ("dockyard stop zebra", {"zebra-running"}),
    ("dockyard start zebra", {"zebra-made"}),
    ("dockyard rm zebra", {"zebra-running", "zebra-made"}),
    ("dockyard run --network zebra", {"zebra-net"}),
    ("dockyard run --restart un", {"unless-stopped"}),
    ("dockyard network rm zebra", {"zebra-net"}),
    ("dockyard volume inspect zebra", {"zebra-vol"}),
    ("dockyard -D ps --filter anc", {"ancestor="}),
    ("dockyard completion f", {"fish"}),
]


@pytest.mark.parametrize(("line", "wanted"), CASES)
def test_bash_completes(named: tuple[EngineProcess, Path], line: str, wanted: set[str]) -> None:
    assert set(in_bash(*named, line)) == wanted


def test_bash_completes_names_with_colons_from_where_it_broke_them(named: tuple[EngineProcess, Path]) -> None:
    assert in_bash(*named, "dockyard run zebra/im") == ["zebra/image:tag1"]
    assert in_bash(*named, "dockyard run zebra/image:t") == ["tag1"]


def test_bash_completes_what_filters_are_equal_to(named: tuple[EngineProcess, Path]) -> None:
    # (bash breaks the word at "=", and wants what follows it)
    assert in_bash(*named, "dockyard ps --filter status=pau") == ["paused"]
    assert in_bash(*named, "dockyard ps -f network=zebra") == ["zebra-net"]
    assert in_bash(*named, "dockyard network ls --filter type=cus") == ["custom"]


def test_bash_completes_paths_in_containers(named: tuple[EngineProcess, Path]) -> None:
    assert in_bash(*named, "dockyard cp zebra-running:/etc/passw") == ["/etc/passwd"]
    assert in_bash(*named, "dockyard cp zebra-made:/et") == ["/etc/"]


def test_another_name_is_completed_too(named: tuple[EngineProcess, Path]) -> None:
    engine, folder = named
    script = 'eval "$(dockyard completion bash docker)"; complete -p docker dockyard'
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=True, env=environment(engine, folder)
    )
    assert done.stdout.splitlines() == [
        "complete -o default -F _dockyard docker",
        "complete -o default -F _dockyard dockyard",
    ]


def test_bash_falls_back_to_files_where_nothing_is_known(named: tuple[EngineProcess, Path]) -> None:
    assert in_bash(*named, "dockyard import so") in ([], [""])


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("line", "wanted"), CASES)
def test_fish_completes(named: tuple[EngineProcess, Path], line: str, wanted: set[str]) -> None:
    assert set(in_fish(*named, line)) == wanted


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_offers_files_where_nothing_is_known(named: tuple[EngineProcess, Path]) -> None:
    assert in_fish(*named, "dockyard import so") == ["some-file"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("dockyard netw", "dockyard network "),
        ("dockyard stop zeb", "dockyard stop zebra-running "),
        ("dockyard run zebra/im", "dockyard run zebra/image:tag1 "),
        ("dockyard run --network zeb", "dockyard run --network zebra-net "),
        ("dockyard import so", "dockyard import some-file "),
    ],
)
def test_zsh_completes(named: tuple[EngineProcess, Path], line: str, wanted: str) -> None:
    assert in_zsh(*named, line).replace("\\", "") == wanted
