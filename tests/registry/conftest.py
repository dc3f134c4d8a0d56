"""A registry server for the tests of a module."""

from collections.abc import Iterator

import pytest

from tests.registry.server import Server


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("registry")).start()
    yield server
    server.stop()
