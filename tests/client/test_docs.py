"""docs/sdk.md says what is true: its examples run against the real engine."""

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import dockyard
from tests.engine_process import EngineProcess

PAGE = Path(__file__).parents[2] / "docs" / "sdk.md"


def test_the_examples_of_the_sdk_page(engine: EngineProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.docker("pull", "busybox")
    monkeypatch.setenv("DOCKYARD_HOST", engine.host)
    failed, tried = doctest.testfile(
        str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert tried > 50
    assert failed == 0


def test_the_page_names_everything_that_the_package_gives() -> None:
    text = PAGE.read_text()
    given = {name for names in dockyard._EXPORTS.values() for name in names.split()}
    assert not [name for name in sorted(given - {"from_env"}) if f"`{name}`" not in text]
    for name in given:
        assert getattr(dockyard, name) is not None


def test_the_examples_of_the_sdk_page_are_well_typed(tmp_path: Path) -> None:
    """As a user's program: every example one after the other, checked as strictly as can be."""
    source = ["import contextlib"]
    for number, example in enumerate(doctest.DocTestParser().get_examples(PAGE.read_text())):
        body = example.source.rstrip("\n")
        source.append(f"# example {number}, line {example.lineno + 1}\n{body}")
    program = tmp_path / "examples.py"
    program.write_text("\n".join(source) + "\n")
    # what a page may do and a program does not: use a name for several things, and show a value by naming it
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--allow-redefinition",
        "--disable-error-code=no-redef",
        str(program),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PAGE.parents[1])
    assert done.returncode == 0, done.stdout
