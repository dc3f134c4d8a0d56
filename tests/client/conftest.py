"""Clients of the run's engine."""

from collections.abc import Iterator

import pytest

import dockyard
from tests.engine_process import EngineProcess


@pytest.fixture
def client(engine: EngineProcess) -> Iterator[dockyard.Client]:
    """A blocking client; what a test leaves in the engine is the test's fault."""
    with dockyard.Client(engine.host) as client:
        yield client
