"""docs/sdk.md says what is true: its examples run against the real engine."""

import doctest
from pathlib import Path

import pytest

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
