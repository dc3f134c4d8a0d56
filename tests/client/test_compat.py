"""`import dockyard.compat as docker`: docker-py's words, their arguments and what they give back."""

import io
import json
import pickle
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import dockyard.compat as docker
from dockyard.compat.models.containers import Container
from tests.engine_process import EngineProcess


@pytest.fixture
def client(engine: EngineProcess) -> Iterator[docker.DockerClient]:
    engine.docker("pull", "busybox")
    with docker.DockerClient(base_url=engine.host) as client:
        yield client


@pytest.fixture
def sleeper(client: docker.DockerClient) -> Iterator[Container]:
    container = client.containers.run("busybox", "sleep 1000", detach=True, labels=["colour=blue"])
    yield container
    container.remove(force=True, v=True)


def archive(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def test_run_waits_for_the_end_and_gives_what_was_written(client: docker.DockerClient) -> None:
    assert client.containers.run("busybox", "sh -c 'echo out; echo err >&2'", remove=True) == b"out\n"
    both = client.containers.run("busybox", ["sh", "-c", "echo out; echo err >&2"], stderr=True, remove=True)
    assert sorted(both.splitlines()) == [b"err", b"out"]
    environment = {"COLOUR": "blue", "PATH": None}
    assert b"COLOUR=blue" in client.containers.run("busybox", "/bin/env", environment=environment, remove=True)
    large = client.containers.run("busybox", "sh -c 'yes | head -c 3000000'", remove=True)
    assert len(large) == 3000000
    assert list(client.containers.run("busybox", "echo hello", stream=True, remove=True)) == [b"hello\n"]


def test_a_command_that_fails_is_a_container_error(client: docker.DockerClient) -> None:
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run("busybox", "ls /nowhere", remove=True)
    assert caught.value.exit_status == 1
    assert b"/nowhere: No such file" in (caught.value.stderr or b"")
    assert "ls /nowhere" in str(caught.value)


def test_the_options_of_run_are_the_ones_of_docker_py(client: docker.DockerClient, tmp_path: Path) -> None:
    container = client.containers.run(
        "busybox",
        "sleep 1000",
        detach=True,
        ports={"80/tcp": None, "81/udp": ("127.0.0.1", 0)},
        volumes={str(tmp_path): {"bind": "/here", "mode": "ro"}},
        mounts=[docker.types.Mount("/scratch", None, type="tmpfs", tmpfs_size="1m")],
        ulimits=[docker.types.Ulimit(name="nofile", soft=1024, hard=2048)],
        log_config=docker.types.LogConfig(type="json-file", config={"max-size": "1m"}),
        healthcheck={"test": ["CMD", "true"], "interval": 10**9},
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 3},
        extra_hosts={"elsewhere": "10.0.0.1"},
        mem_limit="64m",
        nano_cpus=500_000_000,
        cap_drop=["NET_RAW"],
        user=1000,
        stdin_open=True,
    )
    try:
        host, config = container.attrs["HostConfig"], container.attrs["Config"]
        assert host["Binds"] == [f"{tmp_path}:/here:ro"]
        assert host["Mounts"][0]["TmpfsOptions"] == {"SizeBytes": 1 << 20}
        assert host["Ulimits"] == [{"Name": "nofile", "Soft": 1024, "Hard": 2048}]
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m"}}
        assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
        assert (host["Memory"], host["NanoCpus"], host["CapDrop"]) == (64 << 20, 500_000_000, ["NET_RAW"])
        assert host["ExtraHosts"] == ["elsewhere:10.0.0.1"]
        assert config["Healthcheck"] == {"Test": ["CMD", "true"], "Interval": 10**9}
        assert (config["User"], config["OpenStdin"], config["StdinOnce"]) == ("1000", True, False)
        container.reload()
        assert int(container.ports["80/tcp"][0]["HostPort"]) > 0
        assert container.ports["81/udp"][0]["HostIp"] == "127.0.0.1"
    finally:
        container.remove(force=True)
    with pytest.raises(TypeError, match="no_such_word"):
        client.containers.run("busybox", no_such_word=1)


def test_a_listed_container_has_all_of_its_attributes(client: docker.DockerClient, sleeper: Container) -> None:
    found = next(one for one in client.containers.list(filters={"label": "colour=blue"}) if one == sleeper)
    assert found.attrs["Config"]["Cmd"] == ["sleep", "1000"]
    assert (found.status, found.labels, found.name) == ("running", {"colour": "blue"}, sleeper.name)
    assert found.image is not None
    assert "busybox:latest" in found.image.tags
    sparse = next(one for one in client.containers.list(sparse=True) if one == sleeper)
    assert (sparse.status, sparse.name) == ("running", sleeper.name)
    with pytest.raises(docker.errors.DockerException):
        assert sparse.labels


def test_exec_run_gives_code_and_output_in_every_shape(sleeper: Container) -> None:
    assert sleeper.exec_run("sh -c 'echo hello; exit 3'") == (3, b"hello\n")
    both = "sh -c 'echo out; echo err >&2'"
    assert sleeper.exec_run(both, demux=True).output == (b"out\n", b"err\n")
    assert sleeper.exec_run("true", demux=True).output == (None, None)
    assert sleeper.exec_run("pwd", workdir="/tmp").output == b"/tmp\n"
    assert sleeper.exec_run("sh -c 'echo $A'", environment={"A": "1"}).output == b"1\n"
    assert sleeper.exec_run("id -u", user="1000").output == b"1000\n"
    streamed = sleeper.exec_run(both, stream=True, demux=True)
    assert streamed.exit_code is None
    assert sorted(streamed.output, key=str) == [(None, b"err\n"), (b"out\n", None)]
    assert sleeper.exec_run("echo hello", tty=True).output == b"hello\r\n"
    detached = sleeper.exec_run("touch /made", detach=True)
    assert detached.output == ""


def test_exec_run_gives_the_socket_itself(sleeper: Container) -> None:
    _, file = sleeper.exec_run("cat", stdin=True, socket=True)
    file._sock.sendall(b"hello\n")
    file._sock.settimeout(10)
    assert file._sock.recv(100) == b"\x01\0\0\0\0\0\0\x06hello\n"
    file.close()
    _, file = sleeper.exec_run("sh -c 'echo out; sleep 0.1; echo err >&2'", socket=True)
    assert list(docker.utils.socket.frames_iter(file, tty=False)) == [(1, b"out\n"), (2, b"err\n")]


def test_files_go_in_and_out_as_archives(sleeper: Container) -> None:
    assert sleeper.put_archive("/tmp", archive("letter", b"hello")) is True
    pieces, stat = sleeper.get_archive("/tmp/letter", chunk_size=100)
    data = list(pieces)
    assert max(map(len, data)) <= 100
    with tarfile.open(fileobj=io.BytesIO(b"".join(data))) as tar:
        file = tar.extractfile("letter")
        assert file is not None
        assert file.read() == b"hello"
    assert (stat["name"], stat["size"]) == ("letter", 5)
    assert {"Path": "/tmp/letter", "Kind": 1} in sleeper.diff()
    with pytest.raises(docker.errors.NotFound):
        sleeper.get_archive("/nowhere")
    assert b"tmp/letter" in b"".join(sleeper.export())


def test_logs_are_bytes_or_a_generator_that_can_be_closed(client: docker.DockerClient) -> None:
    container = client.containers.run("busybox", "sh -c 'echo one; echo two; sleep 1000'", detach=True)
    try:
        stream = container.logs(stream=True)
        assert [next(stream), next(stream)] == [b"one\n", b"two\n"]
        threading.Timer(0.3, stream.close).start()
        assert list(stream) == []
        assert container.logs(tail=1) == b"two\n"
        assert list(container.logs(stream=True, follow=False)) == [b"one\n", b"two\n"]
        assert container.logs(since=time.time() + 100) == b""
        assert next(container.attach(stream=True, logs=True)) == b"one\n"
        assert container.attach(logs=True) == b"one\ntwo\n"
    finally:
        container.remove(force=True)


def test_attach_socket_reaches_the_programs_stdin(client: docker.DockerClient) -> None:
    container = client.containers.create("busybox", "cat", stdin_open=True, tty=True)
    try:
        file = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        container.start()
        file._sock.sendall(b"hello\n")
        file._sock.settimeout(10)
        assert file._sock.recv(5) == b"hello"
        file.close()
    finally:
        container.remove(force=True)


def test_what_a_container_does_and_uses(client: docker.DockerClient, sleeper: Container) -> None:
    assert sleeper.stats(stream=False)["memory_stats"]["usage"] > 0
    decoded = sleeper.stats(stream=True, decode=True)
    assert next(decoded)["id"] == sleeper.id
    decoded.close()
    assert b'"cpu_stats"' in next(sleeper.stats())
    assert any("sleep 1000" in row for row in sleeper.top()["Processes"])
    sleeper.update(cpu_shares=512, mem_limit="32m", memswap_limit="64m")
    sleeper.rename("compat-renamed")
    sleeper.pause()
    sleeper.reload()
    assert (sleeper.status, sleeper.name) == ("paused", "compat-renamed")
    assert (sleeper.attrs["HostConfig"]["CpuShares"], sleeper.attrs["HostConfig"]["Memory"]) == (512, 32 << 20)
    sleeper.unpause()
    image = sleeper.commit("compat-made", tag="1", changes=["CMD echo made"])
    assert image.tags == ["compat-made:1"]
    assert client.containers.run(image, remove=True) == b"made\n"
    client.images.remove("compat-made:1")
    sleeper.kill(signal="SIGKILL")
    assert sleeper.wait()["StatusCode"] == 137
    sleeper.start()
    with pytest.raises(docker.errors.TimedOut):
        sleeper.wait(timeout=0.2)


def test_images_are_built_saved_loaded_and_listed(client: docker.DockerClient, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nARG WHO\nRUN echo $WHO > /who\nCOPY letter /\nCMD cat /who /letter\n"
    )
    (tmp_path / "letter").write_text("letter\n")
    image, log = client.images.build(
        path=str(tmp_path), tag="compat-built:1", buildargs={"WHO": "me"}, nocache=True, rm=True, labels={"a": "b"}
    )
    assert image.tags == ["compat-built:1"]
    assert image.labels == {"a": "b"}
    assert any("Step 3/" in message.get("stream", "") for message in log)
    assert client.containers.run("compat-built:1", remove=True) == b"me\nletter\n"
    assert image in client.images.list("compat-built")
    assert image.history()[0]["Tags"] == ["compat-built:1"]
    saved = b"".join(image.save(named=True))
    client.images.remove("compat-built:1", force=True)
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("compat-built:1")
    assert client.images.load(saved)[0].tags == ["compat-built:1"]
    client.images.remove("compat-built:1")
    with pytest.raises(docker.errors.BuildError) as caught:
        client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 7"))
    assert "returned a non-zero code: 7" in caught.value.msg
    assert any("RUN exit 7" in message.get("stream", "") for message in caught.value.build_log)


def test_networks_and_volumes(client: docker.DockerClient) -> None:
    pool = docker.types.IPAMPool(subnet="10.231.7.0/24", gateway="10.231.7.1")
    network = client.networks.create("compat-net", ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels={"a": "b"})
    volume = client.volumes.create("compat-vol", labels={"a": "b"})
    container = client.containers.create("busybox", "sleep 1000", volumes=["compat-vol:/data"])
    try:
        network.connect(container, ipv4_address="10.231.7.9", aliases=["nine"])
        container.start()
        network.reload()
        assert network.containers == [container]
        container.reload()
        assert container.attrs["NetworkSettings"]["Networks"]["compat-net"]["IPAddress"] == "10.231.7.9"
        network.disconnect(container)
        assert client.networks.list(names=["compat-net"], greedy=True)[0].containers == []
        assert volume in client.volumes.list(filters={"label": "a=b"})
        assert client.volumes.get("compat-vol").attrs["Labels"] == {"a": "b"}
        with pytest.raises(docker.errors.APIError) as caught:
            volume.remove()
        assert caught.value.status_code == 409
    finally:
        container.remove(force=True)
        network.remove()
        volume.remove()


def test_the_engine_itself(client: docker.DockerClient, sleeper: Container) -> None:
    assert client.ping() is True
    assert client.info()["Containers"] >= 1
    assert client.version()["ApiVersion"] == client.api.api_version
    assert client.df()["Containers"]
    events = client.events(
        decode=True, since=int(time.time()) - 600, filters={"container": sleeper.id, "event": "start"}
    )
    assert next(events)["Actor"]["ID"] == sleeper.id
    threading.Timer(0.3, events.close).start()
    assert list(events) == []


def test_errors_are_docker_pys_and_can_be_sent_between_processes(client: docker.DockerClient) -> None:
    with pytest.raises(docker.errors.NotFound) as caught:
        client.containers.get("compat-nowhere")
    assert caught.value.status_code == 404
    assert caught.value.explanation == "No such container: compat-nowhere"
    assert str(caught.value).startswith("404 Client Error: Not Found")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.status_code) == (str(caught.value), 404)
    with pytest.raises(docker.errors.NullResource):
        client.containers.get("")
    with pytest.raises(docker.errors.DockerException, match="Cannot connect"):
        docker.DockerClient(base_url="unix:///nowhere.sock")


def test_from_env_finds_the_engine_in_the_environment(engine: EngineProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    with docker.from_env() as client:
        assert client.ping()
    with docker.from_env(environment={"DOCKER_HOST": engine.host}, version="1.41", timeout=5) as client:
        assert client.api.api_version == "1.41"
        assert client.containers.run("busybox", "echo old", remove=True) == b"old\n"


def test_the_docker_configuration_is_heeded(
    engine: EngineProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"proxies": {"default": {"ftpProxy": "proxy:21"}}, "detachKeys": "ctrl-x"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with docker.DockerClient(base_url=engine.host) as client:
        assert b"ftp_proxy=proxy:21" in client.containers.run("busybox", "env", remove=True)
        without = client.containers.run("busybox", "env", remove=True, use_config_proxy=False)
        assert b"ftp_proxy" not in without
        container = client.containers.run("busybox", "cat", tty=True, stdin_open=True, detach=True)
        try:
            _, file = container.exec_run("cat", stdin=True, tty=True, socket=True)
            file._sock.settimeout(10)
            file._sock.sendall(b"\x18")
            while file._sock.recv(200):
                pass  # to the end, at which `cat` goes on without us
            file.close()
        finally:
            container.remove(force=True)
        with pytest.raises(TypeError, match="labels"):
            client.networks.create("compat-labels", labels=["a"])


def test_types_are_dicts_with_attributes() -> None:
    log = docker.types.LogConfig(type=docker.types.LogConfig.types.JSON, config={"a": "b"})
    log.set_config_value("c", "d")
    assert (log.type, log.config, dict(log)["Type"]) == ("json-file", {"a": "b", "c": "d"}, "json-file")
    limit = docker.types.Ulimit(name="nofile", soft=1)
    limit.hard = 2
    assert limit == {"Name": "nofile", "Soft": 1, "Hard": 2}
    assert docker.types.Healthcheck(test="true") == {"Test": ["CMD-SHELL", "true"]}
    with pytest.raises(AttributeError):
        assert limit.nothing
