"""Requests made at random from the API's own description, engine_api.txt: mostly well-formed, with odd values."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

# Blanks part them; what else may be odd in a string follows.
ODD_WORDS = """
    / // . .. ../.. % %zz -1 0 1 a=b a:b = : a/b ä {} [] null true none host bridge default private
    container:probe container: container:nosuch service:x busybox busybox:latest nosuch probe idle fuzznet fuzzvol
    volume:fuzzvol /proc/self/root/tmp /proc/1/root /dev/null /etc/passwd /bin/sh relative/path /nosuch local
    1.2.3.4 1.2.3.4/33 10.77.0.0/16 ::1 fd00::/64 999.1.1.1 02:42:ac:11:00:02 80/tcp 80-70 65536 53/udp 80:80
    127.0.0.1:80:80 1h 10s -1s 2026-01-01T00:00:00Z 1e400 KILL SIG99 tcp on-failure always json-file syslog
    bind volume tmpfs image rshared linux/amd64 windows/amd64 bogus root 1000:1000 4294967295 CAP_SYS_ADMIN
    seccomp=unconfined label=x:y no-new-privileges http://127.0.0.1:1/x ctrl-a ctrl-é next-exit removed
    fuzznet:alias max-size net.ipv4.ip_forward kernel.msgmax size=1g o=bind device type ro rw z volatile
""".split()
LONG = ["x" * 300, "x" * 5000, "sha256:" + "0" * 64, "0" * 64, "busybox@sha256:" + "0" * 64]
ODD_STRINGS = ["", " ", "\0", "a\0b", "\ud800", "\n", *LONG, *ODD_WORDS]
ODD_NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    100,
    1024,
    65535,
    65536,
    1 << 20,
    1 << 31,
    -(1 << 31),
    1 << 32,
    -1 + (1 << 63),
    -(1 << 63),
)
NO_NUMBERS = (1 << 63, 1 << 64, -(1 << 63) - 1, 1.5, -0.0, 1e308, "1", True)
OF_ANY_KIND = (None, "", "x", 0, -1, 1.5, True, [], {}, [None], {"": None}, [[]], {"a": {}})
NAMES = ["x" * 300, *"probe idle nosuch busybox fuzznet fuzzvol a%2Fb %00 ..%2f bridge host".split()]
# How often a route is taken beside the others: what has much to say often, what needs a swarm hardly.
WEIGHTS = {
    **dict.fromkeys(("nodes", "swarm", "services", "tasks", "secrets", "configs", "plugins"), 0.1),
    "/containers/create": 30.0,
    "/networks/create": 10.0,
    "/containers/{id}/update": 5.0,
    "/volumes/create": 5.0,
    "/containers/{id}/exec": 5.0,
    "/exec/{id}/start": 3.0,
    "/networks/{id}/connect": 5.0,
    "/build": 3.0,
}


@dataclass(frozen=True)
class Request:
    """One of them."""

    method: str
    route: str  # as the description has it
    target: str
    headers: dict[str, str]
    body: bytes

    def __str__(self) -> str:
        return f"{self.method} {self.target[:300]} {self.body[:600]!r}"


class Description:
    """The table of routes and shapes."""

    def __init__(self) -> None:
        routes, shapes = Path(__file__).with_name("engine_api.txt").read_text().split("\n\n")
        self.routes = [line.split(" | ") for line in routes.splitlines() if not line.startswith("#")]
        self.shapes = {name: _parse(shape) for name, shape in (line.split(" = ") for line in shapes.splitlines())}
        self.weights = []
        for operation, _, _ in self.routes:
            route = operation.split(" ")[1]
            self.weights.append(WEIGHTS.get(route) or WEIGHTS.get(route.split("/")[1]) or 1.0)
        self.bodies = {body: _parse(body) for _, _, body in self.routes if body not in ("-", "binary")}


def _parse(text: str) -> Any:
    """A shape as a tree of pairs: object and {name: shape}, map or list and shape, both and [shapes], name and word."""
    words = re.findall(r"string\([^)]*\)|[\w-]+|[{}\[\]<>:,&]", text)

    def whole() -> Any:
        parts = [one()]
        while words and words[0] == "&":
            words.pop(0)
            parts.append(one())
        return parts[0] if len(parts) == 1 else ("both", parts)

    def one() -> Any:
        word = words.pop(0)
        if word == "[" or word == "<":
            inner = whole()
            words.pop(0)
            return ("list" if word == "[" else "map", inner)
        if word == "{":
            fields = {}
            while words[0] != "}":
                name = words.pop(0)
                words.pop(0)
                fields[name] = whole()
                if words[0] == ",":
                    words.pop(0)
            words.pop(0)
            return ("object", fields)
        return ("name", word)

    return whole()


class Maker:
    """Makes requests, always the same ones for a seed."""

    def __init__(self, seed: int, folder: str) -> None:
        """`folder` is where what is to be a path of the host lies."""
        self._random = random.Random(seed)
        self._description = Description()
        self._strings = (*ODD_STRINGS, f"{folder}/a:/b", f"{folder}/a:/b:ro,z", f"{folder}/nosuch", f"{folder}/file")

    def requests(self, identifiers: dict[str, list[str]]) -> Iterator[Request]:
        """Without end. `identifiers` are further names for a path parameter, looked at for each request."""
        while True:
            known = self._description
            operation, query, body = self._random.choices(known.routes, known.weights)[0]
            method, route = operation.split(" ")
            yield self._request(method, route, query, body, identifiers)

    def _request(self, method: str, route: str, query: str, body: str, identifiers: dict[str, list[str]]) -> Request:
        names = [*NAMES, *identifiers.get(route.split("/")[1], [])]
        target = re.sub(r"\{\w+\}", lambda _: self._random.choice(names), route)
        pairs = []
        if query != "-":
            for part in query.split(" "):
                name, _, kind = part.partition(":")
                if self._random.random() < 0.5:
                    pairs.append((name, self._query_value(name, kind)))
        if pairs:
            target += "?" + urlencode(pairs, quote_via=quote, errors="surrogatepass")
        if self._random.random() < 0.3:
            target = f"/v1.{self._random.randrange(24, 52)}{target}"
        headers, data = {}, b""
        if body == "binary" or route == "/build":
            headers["Content-Type"] = "application/x-tar"
            data = self._random.choice((b"", bytes(1024), self._random.randbytes(700), b"\x1f\x8b\x08" + bytes(30)))
        elif body != "-":
            headers["Content-Type"] = "application/json"
            given = self._value(self._description.bodies[body], 0)
            if route == "/containers/create" and isinstance(given, dict):
                host = self._value(("name", "HostConfig"), 1)
                given = {"Image": "busybox", "Cmd": ["true"], "HostConfig": host, **given}
            data = json.dumps(given).encode()
            if self._random.random() < 0.03:
                data = data[: self._random.randrange(len(data) + 1)] + self._random.choice((b"", b"}", b"\0", b"\xff"))
        return Request(method, route, target, headers, data)

    def _query_value(self, name: str, kind: str) -> str:
        if name == "filters":
            return json.dumps(self._value(("map", ("list", ("name", "string"))), 0))
        if kind == "boolean":
            return self._random.choice(("0", "1", "true", "false", "", "x"))
        if kind == "integer" and self._random.random() < 0.8:
            return str(self._random.choice((*ODD_NUMBERS, *NO_NUMBERS)))
        return self._random.choice(self._strings)

    def _value(self, shape: Any, depth: int) -> Any:
        if self._random.random() < 0.02:
            return self._random.choice(OF_ANY_KIND)
        kind, inner = shape
        if kind == "both":
            merged: dict[str, Any] = {}
            for part in inner:
                value = self._value(part, depth)
                merged |= value if isinstance(value, dict) else {}
            return merged
        if kind == "object":
            few = self._random.randrange(1, 3) if depth else self._random.randrange(0, 4)
            chosen = self._random.sample(sorted(inner), min(few, len(inner)))
            return {name: self._value(inner[name], depth + 1) for name in chosen}
        if kind == "map":
            return {
                self._random.choice(self._strings): self._value(inner, depth + 1)
                for _ in range(self._random.randrange(3))
            }
        if kind == "list":
            return [self._value(inner, depth + 1) for _ in range(self._random.randrange(4))]
        return self._of_name(inner, depth)

    def _of_name(self, name: str, depth: int) -> Any:
        if name in self._description.shapes:
            return self._value(self._description.shapes[name], depth)
        if name.startswith("string"):
            named = name[7:-1].split("|") if "(" in name else []
            return self._random.choice(named if named and self._random.random() < 0.7 else self._strings)
        if name == "boolean":
            return self._random.choice((True, False))
        return self._random.choice(NO_NUMBERS if self._random.random() < 0.1 else ODD_NUMBERS)
