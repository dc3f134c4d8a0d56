"""An application that is made and removed in one request, and the request by itself."""

import itertools
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

import dockyard
import dockyard.compose
from dockyard.client.client import Client
from dockyard.client.errors import APIError, BadRequest
from dockyard.compose.run.one_pass import OnePass, Steps
from tests.compose.conftest import ComposeFolder

INDEPENDENT = """
services:
  a: {image: busybox, command: sleep 1000, init: true, stop_grace_period: 0s}
  b: {image: busybox, command: sleep 1000, init: true, depends_on: [a], networks: [own, default]}
  c: {image: busybox, command: sleep 1000, init: true, healthcheck: {test: "true", interval: 100ms}}
  d: {image: busybox, command: sleep 1000, init: true, depends_on: {c: {condition: service_healthy}}}
networks: {own: {}}
"""


class Recorder:
    """Notes the requests that go in one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: list[list[str]] = []
        plain = Client.stream_requests

        def recording(client: Client, requests: Iterable[Mapping[str, Any]]) -> Any:
            found = list(requests)
            self.passes.append([f"{one['Method']} {one['Path'].split('?')[0].rsplit('/', 1)[-1]}" for one in found])
            return plain(client, found)

        monkeypatch.setattr(Client, "stream_requests", recording)


def test_what_is_independent_is_made_started_and_removed_in_one_request(
    compose: ComposeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = dockyard.compose.load(compose.write(INDEPENDENT), environment={})
    recorder = Recorder(monkeypatch)
    with dockyard.Client(compose.environment["DOCKER_HOST"]) as client:
        containers = dockyard.compose.up(client, project)
        assert sorted(one.name.split("-")[1] for one in containers) == ["a", "b", "c", "d"]
        assert all(one.status == "running" for one in containers)
        # d is started when c is healthy, which nobody but us can wait for
        (made,) = recorder.passes
        assert sorted(made) == ["POST create"] * 6 + ["POST start"] * 3
        dockyard.compose.down(client, project)
        removed = recorder.passes[1]
        assert len(recorder.passes) == 2
        assert len([one for one in removed if one == "POST stop"]) == 4
        assert len([one for one in removed if one.startswith("DELETE")]) == 6
        mark = {"label": f"com.docker.compose.project={project.name}"}
        assert not client.containers.list(all=True, filters=mark)
        assert not client.networks.list(mark)


def test_nothing_is_started_when_one_container_cannot_be_made(compose: ComposeFolder) -> None:
    compose.write(
        """
services:
  a: {image: busybox, command: sleep 1000, stop_grace_period: 0s}
  b: {image: busybox, command: sleep 1000, cap_add: [NO_SUCH_THING]}
"""
    )
    done = compose.run("up", "-d")
    assert done.returncode == 1
    assert "NO_SUCH_THING" in done.stderr
    assert "Container" in done.stderr
    assert "Start" not in done.stderr
    assert compose("ps", "-q") == ""
    assert len(compose("ps", "-aq").split()) == 1
    compose("down")


def test_dependents_are_removed_before_what_they_depend_on(compose: ComposeFolder) -> None:
    compose.write(INDEPENDENT)
    compose("up", "-d")
    lines = [" ".join(line.split()) for line in compose.run("down").stderr.splitlines()]
    name = compose.folder.name
    for first, then in (("b", "a"), ("d", "c")):
        assert lines.index(f"Container {name}-{first}-1 Removed") < lines.index(f"Container {name}-{then}-1 Stopping")
    assert f"Network {name}_own Removed" in lines


def test_what_run_has_left_goes_with_the_orphans(compose: ComposeFolder) -> None:
    compose.write(INDEPENDENT)
    compose("up", "-d", "a")
    made = compose("run", "-d", "-T", "a", "true").strip()
    with dockyard.Client(compose.environment["DOCKER_HOST"]) as client:
        assert client.containers.get(made).attrs["HostConfig"]["PortBindings"] == {}  # and not null
    compose("down", "--remove-orphans")
    assert compose("ps", "-aq", "--all", "--orphans") == ""
    mark = {"label": f"com.docker.compose.project={compose.folder.name}"}
    with dockyard.Client(compose.environment["DOCKER_HOST"]) as client:
        assert not client.containers.list(all=True, filters=mark)


def test_what_comes_after_a_request_that_has_failed_is_not_begun(compose: ComposeFolder) -> None:
    body = {"Image": "busybox", "Cmd": ["true"]}
    with dockyard.Client(compose.environment["DOCKER_HOST"]) as client:
        told = list(
            client.stream_requests(
                [
                    {"Key": "n", "Method": "POST", "Path": "/containers/create?name=bad%20name", "Body": body},
                    {"Key": "after", "Method": "POST", "Path": "/containers/{n}/start", "After": ["n"]},
                    {"Key": "gone", "Method": "DELETE", "Path": "/containers/nobody", "Tolerated": [404]},
                    {"Key": "made", "Method": "POST", "Path": "/containers/create", "Body": body, "After": ["gone"]},
                    {"Key": "end", "Method": "DELETE", "Path": "/containers/{made}", "After": ["made"]},
                ]
            )
        )
        statuses = {one["Key"]: one["Status"] for one in told if "Status" in one}
        assert statuses == {"n": 400, "gone": 404, "made": 201, "end": 204}
        assert {"Key": "after", "Skipped": True} in told
        begun = [one["Key"] for one in told if one.get("Begun")]
        assert begun.index("gone") < begun.index("made") < begun.index("end")


@pytest.mark.parametrize(
    ("requests", "why"),
    [
        ([{"Key": "a", "Method": "GET", "Path": "/info"}], "can't be one of several"),
        ([{"Key": "a", "Method": "POST", "Path": "/containers/x/attach"}], "can't be one of several"),
        ([{"Key": "a", "Method": "POST", "Path": "/dockyard/requests"}], "can't be one of several"),
        ([{"Key": "a", "Method": "DELETE", "Path": "/networks/n", "After": ["b"]}], 'no request "b"'),
        ([{"Key": key, "Method": "DELETE", "Path": "/networks/n"} for key in "aa"], "the same key"),
        (
            [
                {"Key": one, "Method": "DELETE", "Path": "/networks/n", "After": [other]}
                for one, other in itertools.permutations("ab")
            ],
            "in a circle",
        ),
        (
            [
                {"Key": "a", "Method": "DELETE", "Path": "/networks/n"},
                {"Key": "b", "Method": "DELETE", "Path": "/containers/{a}"},
            ],
            "does not come after",
        ),
    ],
)
def test_requests_that_cannot_go_together_are_refused_before_anything_is_done(
    compose: ComposeFolder, requests: list[dict[str, Any]], why: str
) -> None:
    with dockyard.Client(compose.environment["DOCKER_HOST"]) as client:
        with pytest.raises(BadRequest, match=why):
            list(client.stream_requests(requests))
        with pytest.raises(APIError):
            client.request("GET", "/dockyard/requests")


def test_an_answer_that_never_came_is_no_success() -> None:
    class Ending:
        def stream_requests(self, requests: list[dict[str, object]]) -> list[dict[str, object]]:
            return [
                {"Key": "one", "Begun": True},
                {"Key": "one", "Status": 201, "Answer": {}},
                {"Key": "two", "Begun": True},
            ]

    done: list[int] = []
    steps = Steps(lambda: None, lambda status, answer: done.append(status), lambda error: error)
    passing = OnePass(SimpleNamespace(engine=SimpleNamespace(client=Ending())))  # type: ignore[arg-type]
    for key in ("one", "two"):
        passing.add(key, "POST", "/volumes/create", steps)
    with pytest.raises(APIError, match="has not told what became of two"):
        passing.run()
    assert done == [201]
