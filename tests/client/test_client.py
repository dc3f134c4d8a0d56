"""Claims about `dockyard.Client`, against a real engine; nearly all of it is AsyncClient's too."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import dockyard
from tests.engine_process import EngineProcess


def test_execute_gives_status_and_both_outputs(client: dockyard.Client) -> None:
    result = client.execute("busybox", ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert result == (3, b"out\n", b"err\n")
    assert (result.exit_code, result.ok, result.text) == (3, False, "out\n")


def test_execute_feeds_stdin_of_any_size_while_output_comes(client: dockyard.Client) -> None:
    data = os.urandom(1 << 20) * 3
    assert client.execute("busybox", "cat", input=data).stdout == data


def test_execute_takes_input_in_pieces(client: dockyard.Client) -> None:
    assert client.execute("busybox", "wc -c", input=(b"x" * 1000 for _ in range(10))).text.strip() == "10000"


def test_execute_removes_its_container(client: dockyard.Client) -> None:
    client.execute("busybox", "true", name="passing")
    client.execute("busybox", "true", name="passing")  # the name is free again, and at once
    assert not client.containers.list(all=True, filters={"name": "passing"})


def test_execute_ends_a_command_that_takes_too_long(client: dockyard.Client) -> None:
    begin = time.monotonic()
    with pytest.raises(dockyard.TimedOut, match=r"'sleep 100' in busybox has not ended within 0.3 s"):
        client.execute("busybox", "sleep 100", timeout=0.3, name="late")
    assert time.monotonic() - begin < 10
    with pytest.raises(dockyard.NotFound):
        client.containers.get("late")


def test_execute_checks_when_asked(client: dockyard.Client) -> None:
    with pytest.raises(dockyard.ContainerError, match="ended with status 7: oh no") as caught:
        client.execute("busybox", ["sh", "-c", "echo oh no >&2; exit 7"], check=True)
    assert caught.value.result.exit_code == 7


def test_a_terminal_has_one_output(client: dockyard.Client) -> None:
    result = client.execute("busybox", ["sh", "-c", "tty; echo err >&2"], tty=True)
    assert result.stdout == b"/dev/pts/0\r\nerr\r\n"
    assert result.stderr == b""


def test_run_gives_a_running_container_that_leaves_with_its_block(client: dockyard.Client) -> None:
    with client.run("busybox", "sleep 100", name="short", labels={"a": "b"}) as container:
        assert (container.name, container.status, container.image) == ("short", "running", "busybox")
        assert container.labels == {"a": "b"}
        assert client.containers.get("short") == container
        assert [found.id for found in client.containers.list(filters={"label": "a=b"})] == [container.id]
    with pytest.raises(dockyard.NotFound, match="No such container: short"):
        client.containers.get("short")


def test_nothing_stays_of_a_container_that_cannot_start(client: dockyard.Client) -> None:
    with pytest.raises(dockyard.APIError, match="no-such-program"):
        client.run("busybox", "no-such-program", name="stillborn")
    with pytest.raises(dockyard.NotFound):
        client.containers.get("stillborn")


def test_containers_run_like_docker_py(client: dockyard.Client) -> None:
    assert client.containers.run("busybox", "echo hello world", remove=True) == b"hello world\n"
    container = client.containers.run("busybox", "sleep 100", detach=True)
    try:
        assert container.status == "running"
        container.stop(timeout=0)
        container.reload()
        assert (container.status, container.exit_code) == ("exited", 137)
    finally:
        container.remove()
    with pytest.raises(dockyard.ContainerError):
        client.containers.run("busybox", "false", remove=True)


def test_the_life_of_a_container(client: dockyard.Client) -> None:
    with client.containers.create("busybox", "sleep 100") as container:
        assert container.status == "created"
        for act, status in (
            (container.start, "running"),
            (container.pause, "paused"),
            (container.unpause, "running"),
            (lambda: container.restart(timeout=0), "running"),
            (container.kill, "exited"),
        ):
            act()
            if status == "exited":
                assert container.wait() == 137
            container.reload()
            assert container.status == status
        container.rename("renamed")
        container.reload()
        assert container.name == "renamed"


def test_options_reach_the_container(client: dockyard.Client, tmp_path: Path) -> None:
    (tmp_path / "seen").write_text("from the host")
    tmp_path.chmod(0o755)
    with client.run(
        "busybox",
        "sleep 100",
        environment={"A": "1", "B": "two words"},
        hostname="inside",
        user="1:2",
        working_dir="/tmp",
        mem_limit="64m",
        cpus=0.5,
        ulimits={"nofile": (100, 200)},
        cap_drop=["ALL"],
        cap_add=["NET_ADMIN"],
        volumes={str(tmp_path): {"bind": "/given", "mode": "ro"}},
        tmpfs={"/scratch": "size=1m"},
        extra_hosts={"friend": "10.9.8.7"},
        dns=["10.9.9.9"],
        restart="on-failure:3",
        log_options={"max-size": "1m"},
        ports={80: None, "53/udp": ("127.0.0.1", 0)},
        init=True,
        stop_signal="SIGINT",
        shm_size="8m",
        sysctls={"net.ipv4.ip_forward": 0},
        pids_limit=50,
    ) as container:
        variables = container.exec("env").text.splitlines()
        assert {"A=1", "B=two words"} <= set(variables)
        script = "hostname; id -u; id -g; pwd; cat /given/seen; echo; ulimit -n; grep friend /etc/hosts"
        lines = container.exec(["sh", "-c", script]).text.splitlines()
        assert lines[:5] == ["inside", "1", "2", "/tmp", "from the host"]
        assert lines[5] == "100"
        assert lines[6].split() == ["10.9.8.7", "friend"]
        host = container.attrs["HostConfig"]
        assert (host["Memory"], host["NanoCpus"], host["PidsLimit"], host["ShmSize"]) == (
            64 << 20,
            500_000_000,
            50,
            8 << 20,
        )
        assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
        assert set(container.ports) == {"80/tcp", "53/udp"}
        assert container.ports["53/udp"][0][0] == "127.0.0.1"


def test_an_option_that_there_is_not(client: dockyard.Client) -> None:
    with pytest.raises(TypeError, match="there is no container option 'colour'"):
        client.run("busybox", colour="red")  # type: ignore[call-arg]
    with pytest.raises(dockyard.ClientError, match="invalid size 'lots'"):
        client.run("busybox", mem_limit="lots")


def test_exec_keeps_the_streams_apart(client: dockyard.Client) -> None:
    with client.run("busybox", "sleep 100") as container:
        result = container.exec(["sh", "-c", "echo out; echo err >&2; exit 5"])
        assert result == (5, b"out\n", b"err\n")
        assert container.exec("cat", input=b"x" * 2_000_000).stdout == b"x" * 2_000_000
        assert container.exec("id -u", user=7).text == "7\n"
        assert container.exec("pwd", working_dir="/tmp").text == "/tmp\n"
        assert "A=1" in container.exec("env", environment={"A": "1"}).text
        assert container.exec("tty", tty=True).text.startswith("/dev/pts/")
        with pytest.raises(dockyard.ContainerError, match="ended with status 1"):
            container.exec("false", check=True)
        with pytest.raises(dockyard.TimedOut):
            container.exec("sleep 100", timeout=0.2)
        assert container.exec("no-such-program").exit_code == 127


def test_a_process_is_written_to_and_read_from(client: dockyard.Client) -> None:
    with client.run("busybox", "sleep 100") as container:
        with container.start_exec("cat", stdin=True) as process:
            for line in (b"one\n", b"two\n"):
                process.write(line)
                assert next(process) == ("stdout", line)
            process.close_stdin()
            assert list(process) == []
            assert process.wait() == 0
        with container.start_exec(["sh", "-c", "cat; exit 3"], stdin=True) as process:
            assert process.communicate(b"all of it") == (b"all of it", b"")
            assert process.wait() == 3
        with container.start_exec("sh", stdin=True, tty=True) as process:
            process.resize(33, 77)
            assert b"33 77" in process.communicate(b"stty size; exit\n")[0]
        container.exec_detached("touch /tmp/done")
        for _ in range(3000):
            if container.files.exists("/tmp/done"):
                break
            time.sleep(0.02)
        else:
            pytest.fail("the detached command did not run")


def test_attach_joins_the_main_process(client: dockyard.Client) -> None:
    with (
        client.containers.create("busybox", "cat", stdin_open=True) as container,
        container.attach(stdin=True) as process,
    ):
        container.start()
        process.write(b"hello\n")
        assert next(process) == ("stdout", b"hello\n")
        container.kill()
        assert process.wait() == 137


def test_logs_whole_and_line_by_line(client: dockyard.Client) -> None:
    script = "echo one; echo two >&2; sleep 0.3; printf three"
    with client.run("busybox", ["sh", "-c", script]) as container:
        followed = [(line.stream, line.text) for line in container.stream_logs()]
        assert sorted(followed) == [("stderr", "two"), ("stdout", "one"), ("stdout", "three")]
        assert container.logs(stderr=False) == b"one\nthree"
        assert container.logs(tail=1) == b"three"
        lines = list(container.stream_logs(follow=False, timestamps=True, stdout=False))
        assert lines[0].text == "two"
        assert lines[0].time.endswith("Z")
        assert container.logs(since=time.time() + 60) == b""


def test_waiting_for_a_log_line(client: dockyard.Client) -> None:
    with client.run("busybox", ["sh", "-c", "echo begin; sleep 0.2; echo ready on 80; sleep 100"]) as container:
        assert container.wait_for_log(r"ready on (\d+)").text == "ready on 80"
        assert container.wait_for_log("begin").text == "begin"
        with pytest.raises(dockyard.TimedOut, match="no line like 'never'"):
            container.wait_for_log("never", timeout=0.2)
    with client.run("busybox", "echo done") as container, pytest.raises(dockyard.ContainerError):
        container.wait_for_log("never")


def test_waiting_for_a_port(client: dockyard.Client) -> None:
    with client.run("busybox", ["sh", "-c", "sleep 0.3; exec httpd -f -p 80"], ports={80: None}) as container:
        host, port = container.wait_for_port(80)
        assert (host, port) == ("127.0.0.1", container.ports["80/tcp"][0][1])
    with client.run("busybox", "sleep 100") as container, pytest.raises(dockyard.TimedOut, match="port 81"):
        container.wait_for_port(81, timeout=0.2)


def test_waiting_for_health(client: dockyard.Client) -> None:
    check: dockyard.ContainerOptions = {"healthcheck": {"test": "test -e /well", "interval": 0.1, "retries": 100}}
    with client.run("busybox", "sleep 100", **check) as container:
        with pytest.raises(dockyard.TimedOut, match=r"not healthy after 0.3 s"):
            container.wait_until_healthy(timeout=0.3)
        container.files.write("/well", b"")
        container.wait_until_healthy(timeout=20)
        assert container.health == "healthy"
    with client.run("busybox", "sleep 100") as container, pytest.raises(ValueError, match="no health check"):
        container.wait_until_healthy()


def test_waiting_has_a_limit(client: dockyard.Client) -> None:
    with client.run("busybox", "sleep 100") as container, pytest.raises(dockyard.TimedOut):
        container.wait(timeout=0.2)


def test_files_there_and_back(client: dockyard.Client, tmp_path: Path) -> None:
    with client.containers.create("busybox") as container:
        files = container.files
        files.write("/etc/new", "text", mode=0o600, uid=3, gid=4)
        files.write("/a/b/c", b"\x00deep", parents=True)
        assert files.read("/etc/new") == b"text"
        assert files.read("/a/b/c") == b"\x00deep"
        stat = files.stat("/etc/new")
        assert (stat.name, stat.size, stat.mode, stat.is_dir, stat.is_link) == ("new", 4, 0o600, False, False)
        assert files.stat("/a").is_dir
        assert files.exists("/a")
        assert not files.exists("/nothing")
        with pytest.raises(dockyard.NotFound):
            files.read("/nothing")
        with pytest.raises(dockyard.NotFound):
            files.write("/no/such/folder", b"")
        with pytest.raises(dockyard.ClientError, match="not a file"):
            files.read("/etc")
        tree = tmp_path / "tree"
        (tree / "sub").mkdir(parents=True)
        (tree / "sub" / "leaf").write_text("leaf")
        (tree / "link").symlink_to("sub/leaf")
        files.put(tree, "/tmp")
        assert files.read("/tmp/tree/link") == b"leaf"  # through the link
        files.put(f"{tree}/.", "/tmp")
        assert files.read("/tmp/sub/leaf") == b"leaf"
        files.put(tree / "sub" / "leaf", "/tmp/other-name")
        assert files.read("/tmp/other-name") == b"leaf"
        files.get("/tmp/tree", tmp_path / "copy")
        assert (tmp_path / "copy" / "sub" / "leaf").read_text() == "leaf"
        assert os.readlink(tmp_path / "copy" / "link") == "sub/leaf"
        files.get("/etc/new", tmp_path)
        assert (tmp_path / "new").read_text() == "text"
        archive = b"".join(files.get_archive("/tmp/tree/sub"))
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            assert tar.getnames() == ["sub", "sub/leaf"]
        files.put_archive("/a", archive)
        files.put_archive("/a/b", io.BytesIO(archive))
        assert files.read("/a/b/sub/leaf") == b"leaf"


def test_what_is_inside(client: dockyard.Client) -> None:
    with client.run("busybox", ["sh", "-c", "touch /new; rm /etc/group; sleep 100"]) as container:
        while len(container.changes()) < 3:
            time.sleep(0.01)
        assert ("added", "/new") in container.changes()
        assert ("deleted", "/etc/group") in container.changes()
        top = container.top()
        assert any("sleep 100" in row[top.titles.index("CMD")] for row in top.rows)
        stats = container.stats()
        assert stats.processes >= 1
        assert 0 < stats.memory < stats.memory_limit
        with container.stream_stats() as stream:
            assert next(stream).cpu_seconds > 0
        with tarfile.open(fileobj=io.BytesIO(b"".join(container.export()))) as tar:
            assert "new" in tar.getnames()
        assert container.update(mem_limit="128m", memswap_limit="256m") == []
        container.reload()
        assert container.attrs["HostConfig"]["Memory"] == 128 << 20
        image = container.commit("from-container", "1", message="why", changes=["CMD cat /new"])
        assert image.tags == ["from-container:1"]
        image.remove()


def test_images_built_saved_and_loaded(client: dockyard.Client, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nARG WHO\nCOPY data /data\nRUN echo hello $WHO; ls /\nLABEL a=b\n"
    )
    (tmp_path / "data").write_text("data")
    (tmp_path / "left-out").write_text("x")
    (tmp_path / ".dockerignore").write_text("left-*")
    image, log = client.images.build(tmp_path, tag=["built:1", "built:2"], build_args={"WHO": "you"}, labels={"c": "d"})
    assert "hello you" in log
    assert sorted(image.tags) == ["built:1", "built:2"]
    assert image.labels == {"a": "b", "c": "d"}
    assert client.execute("built:1", "cat /data").text == "data"
    assert client.images.get("built:2") == image
    assert [found.tags for found in client.images.list("built")] in ([["built:1", "built:2"]], [["built:2", "built:1"]])
    assert any("COPY" in layer.created_by for layer in image.history())
    archive = b"".join(image.save())
    assert client.images.remove("built:1") == ["built:1"]
    image.remove(force=True)
    with pytest.raises(dockyard.ImageNotFound, match="No such image: built:2"):
        client.images.get("built:2")
    loaded = client.images.load(io.BytesIO(archive))
    assert set(loaded) == {image}
    loaded[0].tag("renamed")
    assert "renamed:latest" in loaded[0].tags
    loaded[0].remove(force=True)


def test_a_build_from_text_and_one_that_fails(client: dockyard.Client) -> None:
    steps = list(client.images.stream_build(dockerfile_text="FROM busybox\nENV A=1\n", tag="text:1"))
    assert "Step 2/2 : ENV A=1" in "".join(step.text for step in steps)
    client.images.remove("text:1")
    with pytest.raises(dockyard.BuildFailed, match="returned a non-zero code: 9") as caught:
        client.images.build(dockerfile_text="FROM busybox\nRUN echo so far; exit 9\n", force_rm=True)
    assert "so far" in caught.value.log
    with pytest.raises(TypeError, match="no build option 'flavour'"):
        client.images.build(dockerfile_text="FROM busybox", flavour="x")  # type: ignore[call-arg]


def test_an_imported_file_system(client: dockyard.Client) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("only"))
    image = client.images.import_archive(data.getvalue(), "imported", "1", changes=["ENV A=1"])
    assert image.tags == ["imported:1"]
    assert "A=1" in image.attrs["Config"]["Env"]
    image.remove()


def test_an_image_that_there_is_not(client: dockyard.Client) -> None:
    with pytest.raises(dockyard.ImageNotFound):
        client.containers.create("no/such-image")
    with pytest.raises(dockyard.ClientError):
        client.run("localhost:1/no/such-image")  # and no registry that has it


def test_pulling_tells_its_progress(client: dockyard.Client) -> None:
    steps = list(client.images.stream_pull("hello-world"))
    assert any("hello-world" in step.status for step in steps)
    assert "Hello from" in client.execute("hello-world").text
    assert client.images.pull("hello-world").tags == ["hello-world:latest"]
    client.images.remove("hello-world", force=True)


def test_networks(client: dockyard.Client) -> None:
    subnet = dockyard.Subnet("10.197.3.0/24", gateway="10.197.3.9")
    with client.networks.create("sdk-net", subnets=[subnet], labels={"a": "b"}, internal=True) as network:
        assert (network.name, network.driver, network.labels) == ("sdk-net", "bridge", {"a": "b"})
        assert network.subnets == [subnet]
        assert [found.id for found in client.networks.list({"name": "sdk-net"})] == [network.id]
        with client.run("busybox", "sleep 100", network="sdk-net", aliases=["web"]) as container:
            assert container.ip_addresses["sdk-net"].startswith("10.197.3.")
            network.reload()
            assert network.containers == [container]
            assert "10.197.3." in client.execute("busybox", "nslookup web", network="sdk-net").text
            network.disconnect(container)
            network.connect(container, ipv4_address="10.197.3.77")
            container.reload()
            assert container.ip_addresses == {"sdk-net": "10.197.3.77"}
            with pytest.raises(dockyard.Forbidden):
                network.remove()
    with pytest.raises(dockyard.NotFound):
        client.networks.get("sdk-net")


def test_volumes(client: dockyard.Client) -> None:
    with client.volumes.create("sdk-volume", labels={"a": "b"}) as volume:
        assert (volume.name, volume.driver, volume.labels) == ("sdk-volume", "local", {"a": "b"})
        client.execute("busybox", ["sh", "-c", "echo kept > /data/file"], volumes={"sdk-volume": "/data"})
        mounts: dockyard.ContainerOptions = {
            "mounts": [{"type": "volume", "source": "sdk-volume", "target": "/data", "read_only": True}]
        }
        assert client.execute("busybox", "cat /data/file", **mounts).text == "kept\n"
        assert client.execute("busybox", "touch /data/no", **mounts).exit_code == 1
        assert [found.name for found in client.volumes.list({"label": "a=b"})] == ["sdk-volume"]
        with client.run("busybox", "sleep 100", **mounts), pytest.raises(dockyard.Conflict):
            volume.remove()
    assert not client.volumes.list({"name": "sdk-volume"})


def test_events_as_they_happen(client: dockyard.Client) -> None:
    with client.events(filters={"type": "container", "label": "watched"}) as events:
        client.execute("busybox", "true", labels={"watched": ""}, name="watched")
        seen = []
        for event in events:
            seen.append(event.action)
            if event.action == "destroy":
                break
    assert [action for action in seen if action != "attach"] == ["create", "start", "die", "destroy"]
    assert event.attributes["name"] == "watched"
    assert abs(event.time - time.time()) < 60
    for begin in (time.time() - 100, None):  # with an end alone, all that is remembered counts
        past = client.events(since=begin, until=time.time(), filters={"event": "destroy"})
        assert "watched" in [event.attributes.get("name") for event in past]


def test_the_engine_tells_about_itself(client: dockyard.Client) -> None:
    assert client.ping()
    assert client.version()["Os"] == "linux"
    assert client.info()["Containers"] >= 0
    assert any("busybox:latest" in (row["RepoTags"] or ()) for row in client.df().images)
    assert client.containers.prune().space >= 0


def test_threads_may_share_a_client(client: dockyard.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: client.execute("busybox", f"echo {number}").text, range(24)))
    assert results == [f"{number}\n" for number in range(24)]


def test_a_forked_child_leaves_its_parents_connections_alone(client: dockyard.Client) -> None:
    assert client.ping()
    child = os.fork()
    if not child:
        try:
            for _ in range(20):
                client.ping()
            os._exit(0)
        finally:
            os._exit(1)
    for _ in range(20):
        assert client.containers.list(all=True) is not None
    assert os.waitpid(child, 0)[1] == 0


def test_connections_are_kept_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path, number=7)
    engine.start()
    try:
        client = dockyard.Client(engine.host)
        client.ping()
        engine.kill()
        engine.start()
        assert client.ping()
        assert client.containers.list() == []
        engine.stop()
        with pytest.raises(dockyard.Unreachable, match="Is the dockyard daemon running"):
            client.ping()
    finally:
        engine.clean_up()


def test_ctrl_c_ends_a_wait_and_leaves_the_client_usable(client: dockyard.Client) -> None:
    with client.run("busybox", "sleep 100") as container:
        timer = threading.Timer(0.2, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            container.wait()
        assert container.exec("echo fine").text == "fine\n"


def test_streams_can_be_left_early(client: dockyard.Client) -> None:
    with client.run("busybox", "yes") as container:
        for _ in range(5):
            for line in container.stream_logs():
                assert line.text == "y"
                break
        assert container.exec("echo fine").text == "fine\n"


def test_older_versions_of_the_api(engine: EngineProcess) -> None:
    for version in ("1.24", "1.30", "1.41"):
        with dockyard.Client(engine.host, version=version) as client:
            assert client.execute("busybox", ["sh", "-c", "echo out; echo err >&2"])[1:] == (b"out\n", b"err\n")
            with client.run("busybox", ["sh", "-c", "echo out; echo err >&2; sleep 100"]) as container:
                assert container.wait_for_log("err").stream == "stderr"
                assert container.exec("echo x").stdout == b"x\n"


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(dockyard.Unreachable, match=r"Cannot connect to the Docker daemon at unix:///"):
        dockyard.Client(f"unix://{tmp_path}/none").ping()
    with pytest.raises(dockyard.ClientError, match="the address must be"):
        dockyard.Client("ssh://somewhere")


def test_importing_it_pulls_in_nothing_heavy() -> None:
    code = (
        "import sys, dockyard; before = set(sys.modules); dockyard.Client('unix:///x');"
        "heavy = {'asyncio', 'ssl', 'json', 'tarfile', 'socket', 'aiohttp', 'msgspec', 'dataclasses', 'inspect'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
