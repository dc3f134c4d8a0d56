"""What goes wrong, as a program sees it."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

import dockyard
from dockyard.client import errors

RESULT = dockyard.Result(3, b"out", b"err")
ERRORS = [
    *(kind(status, "no") for status, kind in errors.BY_STATUS.items()),
    errors.ImageNotFound(404, "No such image: x"),
    errors.ServerError(500, "no"),
    errors.OperationFailed("no"),
    errors.BuildFailed("no", "log"),
    errors.ContainerError(["a", "b"], "busybox", RESULT),
    errors.TimedOut("no"),
    errors.Unreachable("no"),
    errors.CredentialsError("no"),
    errors.ArchiveError("no"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_can_be_pickled(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_an_image_for_another_platform_is_an_image_not_found_so_that_the_wanted_one_is_pulled() -> None:
    said = "image with reference x was found but its platform (linux/amd64) does not match the specified platform (x)"
    assert type(errors.APIError.of(404, said)) is errors.ImageNotFound
    assert type(errors.APIError.of(404, "network x not found")) is errors.NotFound


def ask_for_nobody(host: str) -> Any:
    with dockyard.Client(host) as client:
        return client.containers.get("nobody")


def test_an_error_comes_out_of_a_process_pool(client: dockyard.Client) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(dockyard.NotFound, match="No such container: nobody"):
            pool.submit(ask_for_nobody, client.host).result()
        assert pool.submit(len, "it goes on").result() == 10


def test_a_command_that_takes_too_long_is_ended_and_named(client: dockyard.Client) -> None:
    with client.run("busybox", "sleep 600") as container:
        with pytest.raises(dockyard.TimedOut, match=r"'sleep 500' in container \w{12} has not ended after 0.3 s"):
            container.exec("sleep 500", timeout=0.3)
        assert "sleep 500" not in str(container.top().rows)
        with pytest.raises(dockyard.TimedOut, match=f"container {container.short_id} has not ended within 0.2 s"):
            container.wait(timeout=0.2)


def test_what_was_started_or_stopped_by_us_is_never_told_as_it_was(client: dockyard.Client) -> None:
    container = client.containers.create("busybox", "sleep 600")
    assert container.status == "created"
    container.start()
    assert container.status == "running"
    container.pause()
    assert container.status == "paused"
    container.unpause()
    container.rename("renamed")
    assert container.name == "renamed"
    container.kill()
    container.wait()
    assert (container.status, container.exit_code) == ("exited", 137)
    container.remove()


async def test_an_asynchronous_container_tells_nothing_stale(client: dockyard.Client) -> None:
    async with dockyard.AsyncClient(client.host) as other, other.run("busybox", "sleep 600") as container:
        await container.reload()
        assert container.status == "running"
        await container.kill()
        with pytest.raises(AttributeError, match=r"await container\.reload"):
            _ = container.status
        assert container.image == "busybox"
        await container.wait()
        await container.reload()
        assert container.status == "exited"


def test_an_unhealthy_container_is_not_waited_for(client: dockyard.Client) -> None:
    check: dockyard.Healthcheck = {"test": ["CMD-SHELL", "echo ill; exit 1"], "interval": 0.1, "retries": 1}
    with (
        client.run("busybox", "sleep 600", healthcheck=check) as container,
        pytest.raises(dockyard.ContainerError, match="ill"),
    ):
        container.wait_until_healthy(timeout=30)


def test_text_is_taken_where_bytes_are(client: dockyard.Client) -> None:
    assert client.execute("busybox", "cat", input="grüße").text == "grüße"
    with client.run("busybox", "sleep 600") as container:
        assert container.exec("cat", input=["a", b"b"]).text == "ab"
        with container.start_exec("cat", stdin=True) as process:
            process.write("hello")
            process.close_stdin()
            assert next(process).data == b"hello"
        with pytest.raises(TypeError, match="input must be bytes, str or an iterable of them, not int"):
            container.exec("cat", input=5)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("hostname", 5, "option hostname must be str, not int: 5"),
        ("privileged", "yes", "option privileged must be bool, not str"),
        ("dns", "1.1.1.1", r"option dns must be Sequence\[str\], not str"),
        ("mem_limit", [1], "option mem_limit must be Size, not"),
        ("environment", 7, "option environment must be Mapping"),
        ("pids_limit", True, "option pids_limit must be int, not bool"),
        ("no_such_option", 1, "there is no container option 'no_such_option'"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_by_its_name(
    client: dockyard.Client, option: str, value: object, words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        client.run("busybox", "true", **{option: value})  # type: ignore[arg-type]  # wrong on purpose


def test_the_raw_door(client: dockyard.Client) -> None:
    assert client.request("GET", "/_ping") == b"OK"
    made = client.request("POST", "/volumes/create", {"Name": "raw", "Labels": {"a": "b"}})
    assert made["Name"] == "raw"
    listed = client.request("GET", "/volumes", query={"filters": {"label": ["a=b"]}})
    assert [volume["Name"] for volume in listed["Volumes"]] == ["raw"]
    assert client.request("DELETE", "/volumes/raw") == b""
    with pytest.raises(dockyard.NotFound):
        client.request("GET", "/volumes/raw")
