"""What is told of what happens, beside what Docker's engine tells of the same."""

import http.client
import json
import socket
import time
from typing import Any

import pytest

from tests.engine_process import EngineProcess


def told(engine: EngineProcess, since: float) -> list[dict[str, Any]]:
    _, text = engine.api("GET", f"/v1.51/events?since={since:.9f}&until={time.time():.9f}")
    lines = text.splitlines() if isinstance(text, str) else [json.dumps(text)]
    return [json.loads(line) for line in lines]


def test_a_volume_is_mounted_for_a_container_and_given_back(engine: EngineProcess) -> None:
    begin = time.time()
    engine.docker("run", "--name", "mounts", "-v", "told:/data:ro", "busybox", "true")
    container = engine.inspect("mounts")["Id"]
    engine.docker("rm", "mounts")
    engine.docker("volume", "rm", "told")
    events = [event for event in told(engine, begin) if event["Type"] == "volume"]
    assert [(event["Action"], event["Actor"]) for event in events] == [
        ("create", {"ID": "told", "Attributes": {"driver": "local"}}),
        (
            "mount",
            {
                "ID": "told",
                "Attributes": {
                    "container": container,
                    "destination": "/data",
                    "driver": "local",
                    "propagation": "",
                    "read/write": "false",
                },
            },
        ),
        ("unmount", {"ID": "told", "Attributes": {"container": container, "driver": "local"}}),
        ("destroy", {"ID": "told", "Attributes": {"driver": "local"}}),
    ]


def test_a_deleted_images_labels_are_gone_with_it(engine: EngineProcess) -> None:
    engine.docker("create", "--name", "labelled", "--label", "a=b", "busybox", "true")
    image = engine.docker("commit", "-c", "LABEL c=d", "labelled").strip()
    begin = time.time()
    engine.docker("rm", "labelled")
    engine.docker("rmi", image)
    (deleted,) = [event for event in told(engine, begin) if event["Action"] == "delete"]
    assert deleted["Actor"] == {"ID": image, "Attributes": {"name": image}}


def test_pruning_is_told_without_anybodys_name(engine: EngineProcess) -> None:
    def prune() -> None:
        for kind in ("containers", "images", "networks", "volumes", "build"):
            engine.api("POST", f"/{kind}/prune")

    prune()  # what goes is told, too: now nothing is left to go

    begin = time.time()
    prune()
    events = told(engine, begin)
    assert [event["Type"] for event in events] == ["container", "image", "network", "volume", "builder"]
    for event in events:
        assert event["Action"] == "prune"
        assert event["Actor"]["ID"] == ""
        assert not {"id", "from"} & event.keys()


def test_a_container_that_has_changed_nothing_adds_no_layer_to_the_image_made_of_it(engine: EngineProcess) -> None:
    engine.docker("create", "--name", "unchanged", "busybox", "true")
    image = engine.docker("commit", "unchanged", "same").strip()
    made, base = (json.loads(engine.docker("image", "inspect", name))[0] for name in ("same", "busybox"))
    assert made["Id"] == image
    assert made["RootFS"] == base["RootFS"]
    assert engine.docker("run", "--rm", "same", "echo", "well") == "well\n"
    removed = engine.docker("rmi", "-f", "same")
    assert removed == f"Untagged: same:latest\nDeleted: {image}\n"
    engine.docker("rm", "unchanged")


def test_a_stop_is_told_before_the_removal_that_follows(engine: EngineProcess) -> None:
    for options in ([], ["--rm"]):
        engine.docker("run", "-d", "--name", "stopped", *options, "busybox", "sleep", "600")
        begin = time.time()
        engine.docker("stop", "-t", "1", "stopped")
        if not options:
            engine.docker("rm", "stopped")
        while "stopped" in engine.docker("ps", "-a", "--format", "{{.Names}}").split():
            time.sleep(0.05)
        assert [event["Action"] for event in told(engine, begin)][-4:] == ["disconnect", "die", "stop", "destroy"]


@pytest.mark.slow
def test_a_listener_that_lags_far_behind_is_cut_off_and_can_tell(engine: EngineProcess) -> None:
    """A stream that ended as others do would say that nothing more has happened."""
    engine.docker("run", "-d", "-t", "--name", "talkative", "busybox", "sleep", "600")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as wire:
        listener.connect(str(engine.socket))
        listener.sendall(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n")
        wire.connect(str(engine.socket))
        client = http.client.HTTPConnection("engine")
        client.sock = wire
        for _ in range(20_000):  # more than are kept, and than the sockets hold
            client.request("POST", "/containers/talkative/resize?h=20&w=80")
            client.getresponse().read()
        answer = http.client.HTTPResponse(listener)
        answer.begin()
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            answer.read()
    engine.docker("rm", "-f", "talkative")
