"""What a registry tells of itself: log, metrics, health, events; and several processes behind one port."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.processes import children_of, eventually
from tests.registry.server import Server, digest_of


class Listener:
    """Takes events; refuses the first few."""

    def __init__(self, refusals: int = 0) -> None:
        self.events: list[dict[str, Any]] = []
        self.refusals = refusals
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                refused = listener.refusals > 0
                listener.refusals -= 1
                if not refused and self.headers["Authorization"] == "Bearer x":
                    listener.events += json.loads(body)["events"]
                self.send_response(500 if refused else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/events"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()


@pytest.fixture
def listener() -> Iterator[Listener]:
    found = Listener(refusals=2)
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_what_happens_is_told_to_whoever_wants_to_hear_it(listener: Listener, tmp_path: Path) -> None:
    server = Server(
        tmp_path,
        environment={
            "REGISTRY_NOTIFICATIONS_ENDPOINTS": f"- name: one\n  url: {listener.url}\n  threshold: 5\n"
            "  headers: {Authorization: ['Bearer x']}\n  ignore: {actions: [mount]}\n"
        },
    ).start()
    try:
        digest = server.push_image("a", "v1")
        server.ask("GET", "/v2/a/manifests/v1", headers={"User-Agent": "me"})
        server.ask("POST", f"/v2/b/blobs/uploads/?mount={digest_of(b'layer')}&from=a", b"")
        server.ask("DELETE", f"/v2/a/manifests/{digest}")
        eventually(lambda: len(listener.events) >= 5)
        told = [(event["action"], event["target"].get("tag", "")) for event in listener.events]
        assert told == [("push", ""), ("push", ""), ("push", "v1"), ("pull", "v1"), ("delete", "")]
        pushed, pulled = listener.events[2:4]
        assert pushed["target"]["digest"] == digest
        assert pushed["target"]["repository"] == "a"
        assert pushed["target"]["url"] == f"http://127.0.0.1:{server.port}/v2/a/manifests/{digest}"
        assert (pulled["request"]["useragent"], pulled["request"]["method"]) == ("me", "GET")
        assert listener.refusals < 0, "the first tries were not refused"
    finally:
        server.stop()


def test_metrics_and_health_are_on_an_address_of_their_own(tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    behind = Server(tmp_path)
    server = Server(
        tmp_path,
        f"http.debug.addr=127.0.0.1:{behind.port}",
        "http.debug.prometheus.enabled=true",
        "health.storagedriver.enabled=true",
        f"health.file.0.file={trouble}",
        "health.file.0.interval=50ms",
        "workers=2",
    ).start()
    try:
        blob = b"b" * 1000
        server.push_blob("a", blob)
        for _ in range(5):
            server.ask("GET", f"/v2/a/blobs/{digest_of(blob)}")
        server.ask("GET", "/v2/a/manifests/x")
        last = 'registry_http_requests_total{code="404",handler="manifest",method="get"} 1'
        eventually(lambda: last in behind.ask("GET", "/metrics").body.decode())  # counted when the answer has gone
        text = behind.ask("GET", "/metrics").body.decode()
        assert 'registry_http_requests_total{code="200",handler="blob",method="get"} 5' in text
        assert 'registry_http_request_duration_seconds_count{handler="blob"} 5' in text
        assert 'registry_http_in_flight_requests{handler="blob"} 0' in text
        assert "registry_blob_sent_bytes_total 5000" in text
        assert "registry_blob_received_bytes_total 1000" in text
        assert server.ask("GET", "/metrics").status == 404
        assert behind.ask("GET", "/debug/health").json == {}
        trouble.touch()
        # (each of the workers looks by itself)
        eventually(lambda: behind.ask("GET", "/debug/health").json == {str(trouble): "file exists"})
        eventually(lambda: behind.ask("GET", "/debug/health").status == 503)
        eventually(lambda: server.ask("GET", "/v2/").status == 503)
        trouble.unlink()
        eventually(lambda: server.ask("GET", "/v2/").status == 200)
    finally:
        server.stop()


def test_each_request_has_a_line_in_the_log(tmp_path: Path) -> None:
    server = Server(tmp_path, "log.formatter=json", "log.fields.service=mine").start()
    server.ask("GET", "/v2/?a=b", headers={"User-Agent": 'x"y'})
    server.stop()
    lines = [json.loads(line) for line in server.log_file.read_text().splitlines()]
    (line,) = [line for line in lines if line["msg"] == "response completed"]
    assert (line["http.request.method"], line["http.request.uri"], line["http.response.status"]) == (
        "GET",
        "/v2/?a=b",
        200,
    )
    assert (line["http.request.useragent"], line["service"], line["level"]) == ('x"y', "mine", "info")
    plain = Server(tmp_path / "..", "log.level=warn", "log.accesslog.disabled=true")
    plain.log_file = tmp_path / "plain.log"
    plain.start()
    plain.ask("GET", "/v2/")
    plain.stop()
    assert plain.log_file.read_text() == ""


def test_processes_behind_one_port_share_their_work_and_are_replaced(tmp_path: Path) -> None:
    server = Server(tmp_path, "workers=3").start()
    try:
        assert server.process is not None
        parent = server.process.pid
        workers = eventually(lambda: len(children_of(parent)) == 3 and children_of(parent))
        os.kill(workers[0], signal.SIGKILL)
        eventually(lambda: workers[0] not in children_of(parent) and len(children_of(parent)) == 3)
        # an upload goes on in whatever process its requests come to
        blob = os.urandom(50_000)
        place = server.ask("POST", "/v2/a/blobs/uploads/", b"").headers["Location"]
        for start in range(0, 50_000, 5000):
            sent = {"Content-Range": f"{start}-{start + 4999}"}
            assert server.ask("PATCH", place, blob[start : start + 5000], sent).status == 202
        assert server.ask("PUT", f"{place}?digest={digest_of(blob)}", b"").status == 201
        assert server.ask("GET", f"/v2/a/blobs/{digest_of(blob)}").body == blob
    finally:
        assert server.stop() == 0
    assert children_of(parent) == []


def test_clients_are_led_where_they_can_go(tmp_path: Path) -> None:
    server = Server(tmp_path, "http.host=https://images.example", "http.prefix=/r/", "http.headers.x-a=[b, c]").start()
    try:
        answer = server.ask("POST", "/r/v2/a/blobs/uploads/", b"")
        assert answer.headers["Location"].startswith("https://images.example/r/v2/a/blobs/uploads/")
        assert answer.headers["X-A"] == "b, c"
        assert server.ask("GET", "/v2/").status == 404
    finally:
        server.stop()
