"""An engine and a registry for all tests of what builds become: each takes a while to start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builder.test_buildx import Buildx
from tests.engine_process import EngineProcess
from tests.registry.server import Server


@pytest.fixture(scope="package")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("engine"), number=44) as process:
        yield process


@pytest.fixture(scope="package")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("registry")).start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def buildx(engine: EngineProcess, tmp_path: Path) -> Buildx:
    return Buildx(engine, tmp_path)
