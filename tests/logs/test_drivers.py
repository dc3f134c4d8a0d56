"""Log drivers: what arrives at log servers, what stays readable, what the options do."""

import asyncio
import gzip
import json
import os
import shutil
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dockyard.generators import closing
from dockyard.shim.log_reader import read_logs
from dockyard.shim.log_writer import JsonFile
from tests.engine_process import EngineProcess
from tests.processes import eventually


class Server:
    """Takes what is sent to a socket, in the order in which it comes."""

    def __init__(self, address: Any, kind: int) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, kind)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(address)
        self.received: list[bytes] = []
        self.connections: list[socket.socket] = []
        self._stream = kind == socket.SOCK_STREAM
        if self._stream:
            self.socket.listen()
        self.port = 0 if family == socket.AF_UNIX else self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            if not self._stream:
                while True:
                    self.received.append(self.socket.recv(65536))
            while True:
                peer, _ = self.socket.accept()
                self.connections.append(peer)
                threading.Thread(target=self._take, args=(peer,), daemon=True).start()
        except OSError:
            return

    def _take(self, peer: socket.socket) -> None:
        try:
            while data := peer.recv(65536):
                self.received.append(data)
        except OSError:
            return

    @property
    def text(self) -> bytes:
        return b"".join(self.received)


@contextmanager
def server(address: Any = ("127.0.0.1", 0), kind: int = socket.SOCK_DGRAM) -> Iterator[Server]:
    opened = Server(address, kind)
    try:
        yield opened
    finally:
        opened.socket.shutdown(socket.SHUT_RDWR) if kind == socket.SOCK_STREAM else None
        opened.socket.close()
        for peer in opened.connections:
            peer.close()


def test_json_file_notes_the_attributes_asked_for(engine: EngineProcess) -> None:
    engine.docker(
        "run", "--name", "attrs", "-l", "team=red", "-l", "com.shape=round", "-e", "STAGE=one", "-e", "SIZE_X=9",
        "--log-opt", "labels=team", "--log-opt", "labels-regex=^com[.]", "--log-opt", "env=STAGE",
        "--log-opt", "env-regex=^SIZE", "--log-opt", "tag={{.Name}}/{{.ImageName}}", "busybox", "echo", "hi",
    )  # fmt: skip
    row = json.loads(Path(engine.inspect("attrs")["LogPath"]).read_text())
    expected = {"team": "red", "com.shape": "round", "STAGE": "one", "SIZE_X": "9", "tag": "attrs/busybox"}
    assert row["attrs"] == expected
    told = engine.docker("logs", "--details", "attrs")
    assert told == "SIZE_X=9,STAGE=one,com.shape=round,tag=attrs%2Fbusybox,team=red hi\n"
    engine.docker("rm", "attrs")


@pytest.mark.parametrize(
    ("template", "tag"),
    [
        ("plain", "plain"),
        ("{{.Name | upper}}-{{truncate .ContainerID 3 | len}}", "TAGGED-3"),
        ("{{with .ExtraAttributes nil}}{{.team}}{{end}}", "red"),
        ('{{index .ContainerLabels "team"}}:{{join .ContainerArgs ","}}', "red:hi"),
        ('{{if eq .DaemonName "docker"}}{{json .Config.labels}}{{end}}', '"team"'),
    ],
)
def test_a_tag_is_a_template(engine: EngineProcess, template: str, tag: str) -> None:
    engine.docker(
        "run", "--name", "tagged", "-l", "team=red", "--log-opt", "labels=team", "--log-opt", f"tag={template}",
        "busybox", "echo", "hi",
    )  # fmt: skip
    row = json.loads(Path(engine.inspect("tagged")["LogPath"]).read_text())
    engine.docker("rm", "tagged")
    assert row["attrs"]["tag"] == tag


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{{.Nope}}",
            ':2: executing "log-tag" at <.Nope>: can\'t evaluate field Nope in type *logger.Info',
        ),
        ("{{nope}}", ': function "nope" not defined'),
        ("{{.Name", ": unclosed action"),
    ],
)
def test_a_bad_tag_stops_the_start(engine: EngineProcess, template: str, reason: str) -> None:
    refused = engine.run_docker("run", "--name", "badtag", "--log-opt", f"tag={template}", "busybox", "true")
    said = f"failed to create task for container: failed to initialize logging driver: template: log-tag:1{reason}"
    assert said.encode() in refused.stderr
    assert engine.inspect("badtag")["State"]["Status"] == "created"
    engine.docker("rm", "badtag")


def test_rotated_files_are_compressed_and_still_read(engine: EngineProcess) -> None:
    engine.docker(
        "run", "-d", "--name", "zipped", "--log-opt", "max-size=100k", "--log-opt", "max-file=3",
        "--log-opt", "compress=true", "busybox", "sh", "-c",
        "i=0; while [ $i -lt 3000 ]; do echo line $i of a log that is rotated; i=$((i+1)); done; sleep 100",
    )  # fmt: skip
    path = Path(engine.inspect("zipped")["LogPath"])
    first = path.with_name(path.name + ".1.gz")
    eventually(first.exists)
    eventually(lambda: "line 2999 " in engine.docker("logs", "--tail", "1", "zipped"))
    assert gzip.decompress(first.read_bytes()).count(b"\n") > 100
    numbers = [int(line.split()[1]) for line in engine.docker("logs", "zipped").splitlines()]
    assert numbers == list(range(numbers[0], 3000))
    assert len(engine.docker("logs", "--tail", "1500", "zipped").splitlines()) == 1500
    engine.docker("rm", "-f", "zipped")


def test_logs_read_while_they_are_rotated_have_no_gap_and_nothing_twice(engine: EngineProcess) -> None:
    engine.docker(
        "run", "-d", "--name", "turning", "--log-opt", "max-size=20k", "--log-opt", "max-file=4",
        "--log-opt", "compress=true", "busybox", "sh", "-c",
        "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; sleep 100",
    )  # fmt: skip
    try:
        for arguments in 12 * [(), ("--tail", "300")]:
            numbers = [int(line.split()[1]) for line in engine.docker("logs", *arguments, "turning").splitlines()]
            if numbers:
                assert numbers == list(range(numbers[0], numbers[-1] + 1))
    finally:
        engine.docker("rm", "-f", "turning")


def test_following_goes_on_across_rotations(engine: EngineProcess) -> None:
    engine.docker(
        "run", "-d", "--name", "turning", "--log-driver", "local", "--log-opt", "max-size=20k", "busybox", "sh", "-c",
        "sleep 1; i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); [ $((i%50)) = 0 ] && usleep 20000; done",
    )  # fmt: skip
    followed = engine.docker("logs", "-f", "turning").splitlines()
    assert followed == [f"line {number}" for number in range(2000)]
    engine.docker("rm", "turning")


def test_a_slow_follower_gets_what_was_rotated_and_compressed_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonFile(str(path), 20_000, 50, {}, compress=True)

    def reap() -> None:
        """As the shim does when it is told of an end."""
        if log._compressor[0]:
            log.child_ended(*os.waitpid(log._compressor[0], 0))

    def write(first: int, last: int) -> None:
        for number in range(first, last):
            log.write(1, b"line %d\n" % number)
            if number % 100 == 0:
                reap()

    async def follow() -> list[str]:
        ended = asyncio.Event()
        found = []
        async with closing(read_logs(str(path), follow=True, ended=ended)) as entries:
            async for entry in entries:
                found.append(entry.log.strip())
                if len(found) == 50:
                    write(100, 3000)  # many files, while this one is busy with the first
                    assert len(list(tmp_path.glob("log.*.gz"))) > 5
                    ended.set()
        return found

    write(0, 100)
    assert asyncio.run(follow()) == [f"line {number}" for number in range(3000)]
    log.close()
    while log._compressor[0]:
        reap()


def test_syslog_gets_lines_in_the_format_asked_for(engine: EngineProcess) -> None:
    with server() as udp, server(kind=socket.SOCK_STREAM) as tcp:
        engine.docker(
            "run", "--name", "sys", "--log-driver", "syslog", "--log-opt", f"syslog-address=udp://127.0.0.1:{udp.port}",
            "--log-opt", "syslog-format=rfc5424", "--log-opt", "syslog-facility=local3", "--log-opt", "tag={{.Name}}",
            "busybox", "sh", "-c", "echo out; echo err >&2",
        )  # fmt: skip
        eventually(lambda: len(udp.received) == 2)
        rows = sorted(udp.received, reverse=True)
        assert rows[0].startswith(b"<158>1 ")  # local3, informational
        assert rows[0].split()[3] == b"sys"
        assert rows[0].endswith(b" sys - out\n")
        assert rows[1].startswith(b"<155>1 ")  # error
        engine.docker(
            "run", "--rm", "--log-driver", "syslog", "--log-opt", f"syslog-address=tcp://127.0.0.1:{tcp.port}",
            "busybox", "seq", "100",
        )  # fmt: skip
        eventually(lambda: tcp.text.count(b"\n") == 100)
        assert [row.rpartition(b": ")[2] for row in tcp.text.splitlines()] == [b"%d" % n for n in range(1, 101)]
    # dual logging: what was sent can be read here, too
    assert sorted(engine.docker("logs", "sys").splitlines()) == ["out"]
    engine.docker("rm", "sys")


def test_gelf_gets_json_compressed_over_udp_and_bare_over_tcp(engine: EngineProcess) -> None:
    with server() as udp, server(kind=socket.SOCK_STREAM) as tcp:
        for address, further in (
            (f"udp://127.0.0.1:{udp.port}", []),
            (f"udp://127.0.0.1:{udp.port}", ["--log-opt", "gelf-compression-type=zlib"]),
            (f"tcp://127.0.0.1:{tcp.port}", []),
        ):
            engine.docker(
                "run", "--rm", "--name", "gelf", "-l", "team=red", "--log-driver", "gelf", "--log-opt", "labels=team",
                "--log-opt", f"gelf-address={address}", *further, "busybox", "echo", "hi there",
            )  # fmt: skip
        eventually(lambda: len(udp.received) == 2 and tcp.text.endswith(b"\0"))
        # gzip begins with 1f, zlib with 78; who sends is waited for by a removal, but not for ever
        in_gzip, in_zlib = sorted(udp.received)
        for data in (gzip.decompress(in_gzip), zlib.decompress(in_zlib), tcp.text[:-1]):
            message = json.loads(data)
            assert message["version"] == "1.1"
            assert message["short_message"] == "hi there"
            assert message["_container_name"] == "gelf"
            assert message["_team"] == "red"
            assert message["level"] == 6
            assert abs(message["timestamp"] - time.time()) < 60


def test_fluentd_gets_the_forward_protocol_and_is_waited_for(engine: EngineProcess) -> None:
    with server(kind=socket.SOCK_STREAM) as fluentd:
        engine.docker(
            "run", "--rm", "--name", "flu", "-l", "team=red", "--log-driver", "fluentd", "--log-opt", "labels=team",
            "--log-opt", f"fluentd-address=127.0.0.1:{fluentd.port}", "--log-opt", "tag=docker.{{.Name}}",
            "busybox", "echo", "x" * 300,
        )  # fmt: skip
        eventually(lambda: fluentd.received)
        tag, moment, record = msgspec.msgpack.decode(fluentd.text)
        assert tag == "docker.flu"
        assert abs(moment - time.time()) < 60
        assert record["log"] == "x" * 300
        assert record["container_name"] == "/flu"
        assert record["source"] == "stdout"
        assert record["team"] == "red"
        port = fluentd.port
    refused = engine.run_docker(
        "run", "--rm", "--log-driver", "fluentd", "--log-opt", f"fluentd-address=127.0.0.1:{port}", "busybox", "true"
    )
    assert b"failed to initialize logging driver" in refused.stderr
    assert refused.returncode == 125


def test_journald_gets_fields(engine: EngineProcess) -> None:
    journal = Path("/run/systemd/journal/socket")
    if journal.exists():
        pytest.skip("this host has a journal of its own")
    journal.parent.mkdir(parents=True)
    try:
        with server(str(journal)) as journald:
            engine.docker("run", "--rm", "--name", "jou", "--log-driver", "journald", "busybox", "echo", "noted")
            eventually(lambda: journald.received)
            fields = dict(row.split(b"=", 1) for row in journald.received[0].splitlines())
            assert fields[b"MESSAGE"] == b"noted"
            assert fields[b"PRIORITY"] == b"6"
            assert fields[b"CONTAINER_NAME"] == b"jou"
            assert fields[b"SYSLOG_IDENTIFIER"] == fields[b"CONTAINER_ID"]
    finally:
        journal.unlink(missing_ok=True)
        journal.parent.rmdir()


def test_a_log_server_that_goes_gets_the_rest_when_it_is_back(engine: EngineProcess) -> None:
    with server(kind=socket.SOCK_STREAM) as first:
        port = first.port
        engine.docker(
            "run", "-d", "--name", "gap", "--log-driver", "syslog", "--log-opt", f"syslog-address=tcp://127.0.0.1:{port}",
            "busybox", "sh", "-c", "i=0; while :; do echo n $i; i=$((i+1)); usleep 50000; done",
        )  # fmt: skip
        eventually(lambda: b"n 3\n" in first.text)
    # nobody listens: the container goes on, and its log can be read
    before = len(engine.docker("logs", "gap").splitlines())
    eventually(lambda: len(engine.docker("logs", "gap").splitlines()) > before + 10)
    with server(("127.0.0.1", port), kind=socket.SOCK_STREAM) as second:
        eventually(lambda: second.text.count(b"\n") > before)
        numbers = [int(row.rpartition(b" ")[2]) for row in second.text.splitlines()[:-1]]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        engine.docker("rm", "-f", "gap")


@pytest.mark.parametrize("restarted", [False, True], ids=["", "daemon-restarted"])
def test_a_log_server_gets_the_rest_of_a_container_that_has_ended(engine: EngineProcess, restarted: bool) -> None:
    with server(kind=socket.SOCK_STREAM) as first:
        port = first.port
        engine.docker(
            "run", "-d", "--name", "over", "--log-driver", "syslog", "--log-opt", f"syslog-address=tcp://127.0.0.1:{port}",
            "busybox", "sh", "-c",
            "echo n 0; sleep 2; i=1; while [ $i -lt 100 ]; do echo n $i; i=$((i+1)); usleep 9000; done",
        )  # fmt: skip
        eventually(lambda: b"n 0\n" in first.text)
    engine.docker("wait", "over")
    if restarted:
        engine.kill()
        engine.start()
    time.sleep(1)
    with server(("127.0.0.1", port), kind=socket.SOCK_STREAM) as second:
        eventually(lambda: b"n 99\n" in second.text)
        # what the first one was sent last may have got lost on the way
        assert {row.rpartition(b" ")[2] for row in second.text.splitlines()} >= {b"%d" % n for n in range(60, 100)}
    engine.docker("rm", "over")
    assert "removed before its log server" not in engine.log()


def test_a_removal_says_what_its_log_server_has_not_taken(engine: EngineProcess) -> None:
    with server(kind=socket.SOCK_STREAM) as log_server:
        address = f"syslog-address=tcp://127.0.0.1:{log_server.port}"
        engine.docker("run", "-d", "--name", "unsent", "--log-driver", "syslog", "--log-opt", address, "busybox",
                      "sh", "-c", "sleep 1; i=0; while [ $i -lt 9 ]; do echo n $i; i=$((i+1)); done")  # fmt: skip
    engine.docker("wait", "unsent")
    container = engine.docker("rm", "unsent") and engine.log().rpartition("removed before its log server")[0]
    assert container.rpartition("container ")[2].strip()


def _flood(engine: EngineProcess, name: str, port: int, *options: str) -> None:
    """A container that writes 20 MB, more than sockets hold, to a log whose files hold 400 kB."""
    opts = [f"syslog-address=tcp://127.0.0.1:{port}", "cache-max-size=200k", "cache-max-file=3", *options]
    flags = [flag for option in opts for flag in ("--log-opt", option)]
    script = "i=10000; while [ $i -lt 30000 ]; do echo $i" + " " + "x" * 900 + "; i=$((i+1)); done"
    engine.docker("run", "-d", "--name", name, "--log-driver", "syslog", *flags, "busybox", "sh", "-c", script)


def test_a_container_waits_for_a_log_server_that_takes_nothing(engine: EngineProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        _flood(engine, "waiting", stuck.getsockname()[1])
        seen = -1
        while (now := int(engine.docker("logs", "--tail", "1", "waiting").split()[0])) != seen:
            seen = now
            time.sleep(1)
        assert engine.inspect("waiting")["State"]["Running"]
        assert engine.docker("exec", "waiting", "echo", "well") == "well\n"
        # the probe that the start has made comes first, and hangs up
        received, numbers = b"", []
        while len(numbers) < 20000:
            peer, _ = stuck.accept()
            with peer:
                while data := peer.recv(1 << 16):
                    received += data
                    if received.endswith(b"x\n") and b": 29999 " in received[-1000:]:
                        break
            numbers = [int(row.split(b": ")[1].split()[0]) for row in received.splitlines()]
        assert numbers == list(range(10000, 30000))
        assert engine.docker("wait", "waiting") == "0\n"
        engine.docker("rm", "-f", "waiting")


def test_in_mode_non_blocking_it_does_not_wait(engine: EngineProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        _flood(engine, "hasty", stuck.getsockname()[1], "mode=non-blocking", "max-buffer-size=64k")
        assert engine.docker("wait", "hasty") == "0\n"
    engine.docker("rm", "-f", "hasty")


def test_a_new_daemon_sends_on_where_the_killed_one_was(engine: EngineProcess) -> None:
    with server(kind=socket.SOCK_STREAM) as log_server:
        engine.docker(
            "run", "-d", "--name", "live", "--log-driver", "syslog",
            "--log-opt", f"syslog-address=tcp://127.0.0.1:{log_server.port}",
            "busybox", "sh", "-c", "i=0; while :; do echo n $i; i=$((i+1)); usleep 50000; done",
        )  # fmt: skip
        eventually(lambda: b"n 3\n" in log_server.text)
        engine.kill()
        time.sleep(0.5)
        engine.start()
        last = int(engine.docker("logs", "--tail", "1", "live").split()[1])
        eventually(lambda: b"n %d\n" % (last + 5) in log_server.text)
        numbers = {int(row.rpartition(b" ")[2]) for row in log_server.text.splitlines()[:-1]}
        assert set(range(last + 5)) <= numbers  # none is missing; a few may have come twice
        engine.docker("rm", "-f", "live")


def test_options_are_checked_in_dockers_words(engine: EngineProcess) -> None:
    for driver, options, message in (
        ("foo", {}, 'error looking up logging plugin foo: plugin "foo" not found'),
        ("json-file", {"foo": "x"}, "unknown log opt 'foo' for json-file log driver"),
        ("gelf", {}, "gelf-address is a required parameter"),
        ("gelf", {"gelf-address": "http://x:1"}, "gelf: endpoint needs to be TCP or UDP"),
        ("syslog", {"syslog-facility": "x"}, "invalid syslog facility"),
        ("syslog", {"syslog-format": "x"}, "Invalid syslog format"),
        ("syslog", {"syslog-address": "http://x"}, "unsupported scheme: 'http'"),
        ("json-file", {"mode": "x"}, "logger: logging mode not supported: x"),
        (
            "json-file",
            {"max-buffer-size": "1m"},
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        ("json-file", {"max-size": "lots"}, "invalid size: 'lots'"),
        ("json-file", {"max-file": "0"}, "max-file cannot be less than 1"),
    ):
        status, answer = engine.api(
            "POST",
            "/containers/create",
            {"Image": "busybox", "HostConfig": {"LogConfig": {"Type": driver, "Config": options}}},
        )
        assert (status, answer["message"]) == (400, message)


def test_the_driver_none_keeps_nothing_to_read(engine: EngineProcess) -> None:
    engine.docker("run", "--name", "mute", "--log-driver", "none", "busybox", "echo", "hi")
    status, answer = engine.api("GET", "/containers/mute/logs?stdout=1")
    assert (status, answer["message"]) == (501, "configured logging driver does not support reading")
    engine.docker("rm", "mute")


BYTES = b"\xff\xfe ok\nplain\n\xc3\xa9t\xe9\n\x80"


@pytest.mark.parametrize("driver", ["local", "json-file", "syslog"])
def test_what_is_not_utf8_stays_as_it_is_but_in_json(engine: EngineProcess, driver: str) -> None:
    octal = "".join(f"\\{byte:03o}" for byte in BYTES)
    with server() as log_server:
        options = ["--log-opt", f"syslog-address=udp://127.0.0.1:{log_server.port}"] if driver == "syslog" else []
        engine.docker("run", "-d", "--name", "octets", "--log-driver", driver, *options, "busybox", "printf", octal)
        engine.docker("wait", "octets")
        said = engine.run_docker("logs", "octets").stdout
        if driver == "json-file":
            assert said == BYTES.decode(errors="replace").encode()
        else:
            assert said == BYTES
        if driver == "syslog":
            eventually(lambda: len(log_server.received) == 4)
            assert [row.partition(b"]: ")[2].rstrip(b"\n") for row in log_server.received] == BYTES.split(b"\n")
    engine.docker("rm", "octets")


def test_a_long_line_that_is_not_utf8_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonFile(str(path), -1, 1, {"a": "b"}, exact=True)
    data = bytes(range(128, 256)) * 400 + b"\n" + "é".encode() * 20_000 + b"\xff\nend"
    for begin in range(0, len(data), 5_000):
        log.write(1, data[begin : begin + 5_000])
    log.end(1)
    log.close()

    async def read() -> bytes:
        return b"".join([entry.line async for entry in read_logs(str(path))])

    assert asyncio.run(read()) == data


def test_since_until_tail_and_timestamps(engine: EngineProcess) -> None:
    engine.docker("run", "--name", "timed", "busybox", "sh", "-c", "echo a; sleep 1.1; echo b; sleep 1.1; echo c")
    stamped = engine.docker("logs", "-t", "timed").splitlines()
    moments = [line.split()[0] for line in stamped]
    assert [line.split()[1] for line in stamped] == ["a", "b", "c"]
    assert engine.docker("logs", "--since", moments[1], "timed") == "b\nc\n"
    assert engine.docker("logs", "--until", moments[1], "timed") == "a\nb\n"
    assert engine.docker("logs", "--since", moments[1], "--until", moments[1], "timed") == "b\n"
    assert engine.docker("logs", "--since", "1h", "--tail", "1", "timed") == "c\n"
    assert engine.docker("logs", "--tail", "0", "timed") == ""
    # as in Docker, of the last rows those that are wanted
    assert engine.docker("logs", "--until", moments[1], "--tail", "2", "timed") == "b\n"
    assert engine.api("GET", "/containers/timed/logs?stderr=1&tail=1") == (200, "")
    engine.docker("rm", "timed")


def test_message_pack_of_lengths() -> None:
    from dockyard.shim.log_senders import _packed

    for size in (0, 31, 32, 255, 256, 65535, 65536):
        assert msgspec.msgpack.decode(_packed("é" * size)) == "é" * size
    assert msgspec.msgpack.decode(_packed({str(number): "x" for number in range(20)}))["19"] == "x"
    assert struct.unpack(">BI", _packed(7)) == (0xCE, 7)


def test_a_log_asked_for_right_after_the_start_has_the_first_words(engine: EngineProcess) -> None:
    _, created = engine.api("POST", "/containers/create", {"Image": "busybox", "Cmd": ["echo", "here I am"]})
    name = created["Id"]
    engine.api("POST", f"/containers/{name}/start")
    status, told = engine.api("GET", f"/containers/{name}/logs?stdout=1")
    assert (status, told[8:]) == (200, "here I am\n")
    engine.docker("rm", "-f", name)


def test_a_daemon_with_log_options_that_can_not_be_does_not_start(tmp_path: Path) -> None:
    refusing = EngineProcess(tmp_path, number=25, arguments=("--log-opt=colour=red",))
    with pytest.raises(RuntimeError, match="failed to set log opts: unknown log opt 'colour' for json-file log driver"):
        refusing.start()
    shutil.rmtree(refusing.run)
