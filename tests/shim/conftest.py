"""A daemon of its own for tests that kill it and what belongs to it."""

from collections.abc import Iterator

import pytest

from tests.api_client import Api
from tests.engine_process import EngineProcess


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """One daemon for all of them."""
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("victim"), number=3) as process:
        yield process


@pytest.fixture
def crashing(victim: EngineProcess) -> EngineProcess:
    """The daemon, alive at the beginning of the test whatever the one before has done to it."""
    assert victim.process is not None
    if victim.process.poll() is not None:
        victim.start()
    return victim


@pytest.fixture
def api(crashing: EngineProcess) -> Api:
    """The daemon's API."""
    api = Api(crashing.socket, timeout=30)
    api.get("/_ping")
    return api
