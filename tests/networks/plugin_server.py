"""A program that is spoken to by Docker's plugin protocol, as tests make one."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Self


class PluginServer(HTTPServer):
    """A plugin on a UNIX socket; `asked` is what it was asked, `refuses` the method that it fails at."""

    address_family = socket.AF_UNIX

    def __init__(self, path: Path) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.refuses = ""
        super().__init__(str(path), Handler)

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "plugin", 0

    def answer(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        """What it says to a request."""
        raise NotImplementedError

    @contextmanager
    def served(self) -> Iterator[Self]:
        """It answers, for the time of the block."""
        thread = threading.Thread(target=self.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: PluginServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method = self.path.removeprefix("/")
        self.server.asked.append((method, body))
        said = {"Err": "not today"} if method == self.server.refuses else self.server.answer(method, body)
        data = json.dumps(said).encode()
        self.send_response(500 if {"Err", "Error"} & said.keys() else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        return

    def address_string(self) -> str:
        return "engine"
