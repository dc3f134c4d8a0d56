"""What the embedded resolver tells a container."""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from dnslib import QTYPE, RR, A, DNSHeader, DNSRecord

from dockyard.engine.networks import EndpointConfig
from dockyard.networks import dns
from tests.networks.conftest import Host, inside


def query(path: str, name: str, kind: str = "A", tcp: bool = False) -> DNSRecord:
    """Ask 127.0.0.11 in the namespace at `path`."""
    question = DNSRecord.question(name, kind).pack()

    def ask() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as client:
            client.settimeout(3)
            client.connect(("127.0.0.11", 53))
            if not tcp:
                client.send(question)
                return client.recv(4096)
            client.sendall(struct.pack("!H", len(question)) + question)
            return client.recv(4096)[2:]

    return DNSRecord.parse(inside(path, ask))


async def lookup(path: str | None, name: str, kind: str = "A", tcp: bool = False) -> list[str]:
    """The answers, or [the error's name]."""
    assert path is not None
    record = await asyncio.to_thread(query, path, name, kind, tcp)
    if record.header.rcode:
        return [{2: "SERVFAIL", 3: "NXDOMAIN"}[record.header.rcode]]
    return sorted(str(answer.rdata) for answer in record.rr)


async def test_containers_know_each_other_by_name_alias_and_id(host: Host) -> None:
    await host.create("lan")
    one = await host.join("one", mode="lan", endpoints={"lan": EndpointConfig(aliases=["db"])})
    two = await host.join("two", mode="lan", endpoints={"lan": EndpointConfig(aliases=["db"], links=["one:friend"])})
    where, other = one.endpoints["lan"].ip, two.endpoints["lan"].ip
    for name in ("one", "ONE", "one.lan", host.id_of("one")[:12], "friend"):
        assert await lookup(two.netns_path, name) == [where]
    assert await lookup(two.netns_path, "db") == sorted([where, other])
    assert await lookup(two.netns_path, "one", tcp=True) == [where]
    assert await lookup(two.netns_path, "one", "AAAA") == []
    assert await lookup(two.netns_path, ".".join(reversed(where.split("."))) + ".in-addr.arpa", "PTR") == ["one.lan."]
    await host.service.leave(host.id_of("one"))
    assert await lookup(two.netns_path, "db") == [other]


async def test_renaming_changes_the_name(host: Host) -> None:
    await host.create("lan")
    one = await host.join("one", mode="lan", dns=["127.0.0.1"])
    host.service.rename(host.id_of("one"), "uno")
    assert await lookup(one.netns_path, "uno") == [one.endpoints["lan"].ip]
    assert await lookup(one.netns_path, "one") == ["SERVFAIL"]


async def test_names_stop_at_the_networks_border(host: Host) -> None:
    await host.create("lan", internal=True)
    await host.create("wan", internal=True)
    await host.join("one", mode="lan")
    two = await host.join("two", mode="wan")
    assert await lookup(two.netns_path, "one") == ["SERVFAIL"]


async def test_a_container_may_serve_port_53_itself(host: Host) -> None:
    await host.create("lan")
    one = await host.join("one", mode="lan")
    assert one.netns_path is not None

    def bind() -> socket.socket:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("0.0.0.0", 53))
        return server

    with inside(one.netns_path, bind):
        assert await lookup(one.netns_path, "one") == [one.endpoints["lan"].ip]


@contextmanager
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A resolver on this host that answers 192.0.2.7 to all; yields what it was asked."""
    asked: list[str] = []
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    port = server.getsockname()[1]
    monkeypatch.setattr(dns, "_endpoint", lambda address: (address, port))
    loop = asyncio.get_running_loop()

    def answer() -> None:
        data, client = server.recvfrom(4096)
        question = DNSRecord.parse(data)
        asked.append(str(question.q.qname))
        reply = DNSRecord(DNSHeader(id=question.header.id, qr=1, ra=1), q=question.q)
        reply.add_answer(RR(question.q.qname, QTYPE.A, rdata=A("192.0.2.7"), ttl=60))
        server.sendto(reply.pack(), client)

    loop.add_reader(server, answer)
    try:
        yield asked
    finally:
        loop.remove_reader(server)
        server.close()


async def test_other_names_are_asked_of_the_given_servers_and_remembered(host: Host, monkeypatch: Any) -> None:
    await host.create("lan")
    # one of the two never answers
    one = await host.join("one", mode="lan", dns=["127.0.0.1", "127.99.99.99"])
    with upstream(monkeypatch) as asked:
        assert await lookup(one.netns_path, "example.org") == ["192.0.2.7"]
        assert await lookup(one.netns_path, "Example.org") == ["192.0.2.7"]
    assert [name.lower() for name in asked] == ["example.org."]


async def test_the_resolver_returns_with_a_new_daemon(host: Host) -> None:
    await host.create("lan")
    one = await host.join("one", mode="lan")
    await host.kill()
    await host.open()
    await host.service.restore(host.id_of("one"), one, host.request("one", mode="lan"))
    await host.service.sweep()
    assert await lookup(one.netns_path, "one") == [one.endpoints["lan"].ip]


async def test_a_name_resolves_once_a_network_is_connected_live(host: Host) -> None:
    await host.create("lan")
    one = await host.join("one")
    two = await host.join("two", mode="lan")
    await host.service.connect("lan", host.id_of("one"), EndpointConfig())
    assert await lookup(one.netns_path, "two") == [two.endpoints["lan"].ip]
    assert "nameserver 127.0.0.11\n" in host.file("one", "resolv.conf")


@pytest.mark.parametrize(
    "message",
    [b"", b"\0" * 12, b"\0\0\1\0\0\1" + b"\0" * 6 + b"\xff" * 40, b"\0\0\x84\0\0\1" + b"\0" * 11],
)
def test_malformed_queries_are_no_questions(message: bytes) -> None:
    assert dns.parse_question(message) is None
