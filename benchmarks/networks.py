"""What networks cost in several engines: attaching, many containers, many ports, names, bytes and connections.

usage (root): python -m benchmarks.networks [--engines dockyard,docker28] [--rounds 7] [--many 1000] [--only WORD]

The stock client asks; bytes, connections and names are measured by programs of ours inside the containers' network
namespaces. The last columns are the ratio of the first engine to each other; "bare veth" is two namespaces and a pair
of links with no engine at all.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks import peers
from benchmarks.engines import Workloads
from benchmarks.peers import Engine, Failed

# run in a network namespace; each prints when it is ready or what it has measured
SERVE = """
import socket, sys
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=1024)
print("ready", flush=True)
buffer = bytearray(1 << 20)
while True:
    client, _ = listener.accept()
    with client:
        total = 0
        while size := client.recv_into(buffer):
            total += size
        client.sendall(total.to_bytes(8, "big"))
"""
SEND = """
import socket, sys, time
data, seconds = bytes(1 << 20), float(sys.argv[3])
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as client:
    begin = time.monotonic()
    while time.monotonic() < begin + seconds:
        client.sendall(data)
    client.shutdown(socket.SHUT_WR)
    total = int.from_bytes(client.recv(8), "big")
    print(total * 8 / 1e9 / (time.monotonic() - begin))
"""
CONNECT = """
import socket, sys, time
begin, count, seconds = time.monotonic(), 0, float(sys.argv[3])
while time.monotonic() < begin + seconds:
    with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as client:
        client.shutdown(socket.SHUT_WR)
        client.recv(8)
    count += 1
print(count / (time.monotonic() - begin))
"""
ECHO = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
while True:
    data, client = server.recvfrom(2048)
    server.sendto(data, client)
"""
CALL = """
import socket, sys, time
begin, count, seconds = time.monotonic(), 0, float(sys.argv[3])
while time.monotonic() < begin + seconds:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((sys.argv[1], int(sys.argv[2])))
        client.send(b"hello")
        assert client.recv(100) == b"hello"
    count += 1
print(count / (time.monotonic() - begin))
"""
ASK = """
import socket, statistics, sys, time
name = b"".join(bytes([len(part)]) + part.encode() for part in sys.argv[1].split(".")) + b"\\0"
question = b"\\x12\\x34\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0" + name + b"\\0\\1\\0\\1"
took, end = [], time.monotonic() + float(sys.argv[2])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(5)
    client.connect((sys.argv[3], 53))
    while time.monotonic() < end:
        begin = time.perf_counter()
        client.send(question)
        assert client.recv(512)[7] > 0, "no answer"
        took.append(time.perf_counter() - begin)
print(1e6 * statistics.median(took))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="dockyard,docker28")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--many", type=int, default=1000, help="how many containers and ports")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long bytes flow and names are asked for")
    parser.add_argument("--only", default="", help="only what holds this word")
    parser.add_argument("--json", default="", help="write the results to this file too")
    options = parser.parse_args()
    engines = [peers.engine(name, number) for number, name in enumerate(options.engines.split(","))]
    common = Workloads()
    results: dict[str, list[float]] = {}
    try:
        for engine in engines:
            engine.start()
            common.prepare(engine)
        print(", ".join(f"{engine.name}: {engine.version()}" for engine in engines))
        print(f"{'':<40}" + "".join(f"{engine.name:>12}" for engine in engines) + "       ratio", flush=True)
        bench = Networks(options.rounds, options.many, options.seconds)
        for name, work in bench.all().items():
            if options.only in name:
                try:
                    results[name] = work(engines)
                except Failed as failure:
                    print(f"{name:<40}  {str(failure).strip().splitlines()[-1]}", flush=True)
                    continue
                _print_row(name, results[name])
        if options.only in "bare veth":
            print(f"{'throughput of a bare veth, Gbit/s':<40}{bench.bare():>12.2f}")
        if options.json:
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump(results, file, indent=1)
    finally:
        for engine in engines:
            engine.stop()
        common.close()


def _print_row(name: str, values: list[float]) -> None:
    ratios = "  ".join(f"{values[0] / other:.3f}" for other in values[1:] if other)
    print(f"{name:<40}" + "".join(f"{value:>12.2f}" for value in values) + f"       {ratios}", flush=True)


class Networks:
    """The measurements; each gives a number for every engine."""

    def __init__(self, rounds: int, many: int, seconds: float) -> None:
        self._rounds = rounds
        self._many = many
        self._seconds = str(seconds)
        # of each engine: (ms of time, ms of processor time), (ms for each container, MB for each)
        self._attached: dict[str, tuple[float, float]] = {}
        self._started: dict[str, tuple[float, float]] = {}

    def all(self) -> dict[str, Callable[[list[Engine]], list[float]]]:
        """By what is printed before them."""
        many = self._many
        return {
            "attach: run(bridge) - run(none), ms": lambda engines: [
                self.attach(engines)[one.name][0] for one in engines
            ],
            "attach, processor ms": lambda engines: [self.attach(engines)[one.name][1] for one in engines],
            f"{many} containers, ms for each": lambda engines: [self.containers(one)[0] for one in engines],
            f"{many} containers, MB for each": lambda engines: [self.containers(one)[1] for one in engines],
            f"{many} ports, ms in all": lambda engines: [self.ports(one)[0] for one in engines],
            f"{many} ports, MB": lambda engines: [self.ports(one)[1] for one in engines],
            "a name, µs": lambda engines: [self.name(one) for one in engines],
            "throughput host to container, Gbit/s": lambda engines: [self.to_container(one) for one in engines],
            "throughput between containers, Gbit/s": lambda engines: [self.between(one) for one in engines],
            "connections to a published port, 1/s": lambda engines: [self.connections(one) for one in engines],
            "UDP askers at a published port, 1/s": lambda engines: [self.askers(one) for one in engines],
        }

    def attach(self, engines: list[Engine]) -> dict[str, tuple[float, float]]:
        """How much longer a container with a network takes to run than one without: ms that pass, of the processor.

        Medians of both kinds of runs by turns: the difference is small beside what single runs vary by.
        """
        took: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for number in range(0 if self._attached else self._rounds + 1):
            for engine in engines if number % 2 else reversed(engines):
                for network in ("bridge", "none"):
                    begin, before = time.perf_counter(), engine.processor()
                    engine.docker("run", "--rm", f"--network={network}", "busybox", "true")
                    passed = 1e3 * (time.perf_counter() - begin)
                    time.sleep(0.05)  # what is made ahead for the next one counts, too
                    if number:
                        took.setdefault((engine.name, network), []).append((passed, engine.processor() - before))
        if took:
            columns = {key: zip(*rows, strict=True) for key, rows in took.items()}
            median = {key: [statistics.median(column) for column in pair] for key, pair in columns.items()}
            for engine in engines:
                pairs = zip(median[engine.name, "bridge"], median[engine.name, "none"], strict=True)
                passed, used = (with_one - without for with_one, without in pairs)
                self._attached[engine.name] = (passed, used)
        return self._attached

    def containers(self, engine: Engine) -> tuple[float, float]:
        """Start many idle containers on one bridge: (ms for each, MB for each)."""
        if engine.name in self._started:
            return self._started[engine.name]
        before = engine.memory()
        begin = time.perf_counter()
        try:
            for _ in range(self._many):
                engine.docker("run", "-d", "busybox", "sleep", "100000")
            took = 1e3 * (time.perf_counter() - begin) / self._many
            self._started[engine.name] = took, (engine.memory() - before) / self._many
            return self._started[engine.name]
        finally:
            self._clear(engine)

    def ports(self, engine: Engine) -> tuple[float, float]:
        """Start one container with many published ports: (ms, MB)."""
        before = engine.memory()
        begin = time.perf_counter()
        last = 20000 + self._many - 1
        try:
            engine.docker("run", "-d", "-p", f"20000-{last}:20000-{last}", "busybox", "sleep", "100000")
            return 1e3 * (time.perf_counter() - begin), engine.memory() - before
        finally:
            self._clear(engine)

    def name(self, engine: Engine) -> float:
        """Median time in which a container is told a neighbour's address, in µs."""
        engine.docker("network", "create", "names")
        try:
            engine.docker("run", "-d", "--net", "names", "--name", "neighbour", "busybox", "sleep", "1000")
            asker = self._idle(engine, "--net", "names")
            return _measure(asker, ASK, "neighbour", self._seconds, _resolver(asker))
        finally:
            self._clear(engine)
            engine.docker("network", "rm", "names")

    def to_container(self, engine: Engine) -> float:
        """Bytes from the host to a container."""
        try:
            target = self._idle(engine)
            with _serving(target, 5001):
                return _measure(None, SEND, _address(engine, target), "5001", self._seconds)
        finally:
            self._clear(engine)

    def between(self, engine: Engine) -> float:
        """Bytes from one container to another."""
        try:
            source, target = self._idle(engine), self._idle(engine)
            with _serving(target, 5001):
                return _measure(source, SEND, _address(engine, target), "5001", self._seconds)
        finally:
            self._clear(engine)

    def connections(self, engine: Engine) -> float:
        """Connections that are made one after the other to a published port of the host's."""
        try:
            target = self._idle(engine, "-p", "25001:5001")
            gateway = engine.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge").decode()
            with _serving(target, 5001):
                return _measure(None, CONNECT, gateway.strip() or "127.0.0.1", "25001", self._seconds)
        finally:
            self._clear(engine)

    def askers(self, engine: Engine) -> float:
        """Datagrams to a published port of the host's and back, each from a port of its own: a new flow to track."""
        try:
            target = self._idle(engine, "-p", "25002:5002/udp")
            gateway = engine.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge").decode()
            with _serving(target, 5002, ECHO):
                return _measure(None, CALL, gateway.strip() or "127.0.0.1", "25002", self._seconds)
        finally:
            self._clear(engine)

    def bare(self) -> float:
        """Bytes over a veth pair between two namespaces of which no engine knows."""
        with tempfile.TemporaryDirectory() as folder:
            names = [f"{folder}/{side}" for side in "ab"]
            try:
                for number, name in enumerate(names, 1):
                    open(name, "w", encoding="ascii").close()
                    subprocess.run(["unshare", f"--net={name}", "true"], check=True)
                    if number == 2:
                        pair = ["type", "veth", "peer", "name", "eth0", "netns", name]
                        subprocess.run(["nsenter", f"--net={names[0]}", "ip", "link", "add", "eth0", *pair], check=True)
                for number, name in enumerate(names, 1):
                    for act in (["addr", "add", f"10.9.9.{number}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
                        subprocess.run(["nsenter", f"--net={name}", "ip", *act], check=True)
                with _serving(names[1], 5001):
                    return _measure(names[0], SEND, "10.9.9.2", "5001", self._seconds)
            finally:
                for name in names:
                    subprocess.run(["umount", name], check=False, capture_output=True)

    def _idle(self, engine: Engine, *flags: str) -> str:
        """The network namespace of a new container that does nothing."""
        started = engine.docker("run", "-d", *flags, "busybox", "sleep", "1000").decode().strip()
        return f"/proc/{engine.docker('inspect', '-f', '{{.State.Pid}}', started).decode().strip()}/ns/net"

    def _clear(self, engine: Engine) -> None:
        left = engine.docker("ps", "-aq").decode().split()
        for place in range(0, len(left), 100):
            engine.docker("rm", "-f", *left[place : place + 100])


def _resolver(namespace: str) -> str:
    """The server that the container asks for names."""
    with open(namespace.replace("/ns/net", "/root/etc/resolv.conf"), encoding="utf-8") as file:
        return next(line.split()[1] for line in file if line.startswith("nameserver"))


def _address(engine: Engine, namespace: str) -> str:
    shown = subprocess.run(
        ["nsenter", f"--net={namespace}", "ip", "-j", "-4", "addr", "show", "eth0"], capture_output=True, check=True
    ).stdout
    return str(json.loads(shown)[0]["addr_info"][0]["local"])


def _inside(namespace: str | None, program: str, *arguments: str) -> list[str]:
    enter = ["nsenter", f"--net={namespace}"] if namespace else []
    return [*enter, sys.executable, "-c", program, *arguments]


@contextmanager
def _serving(namespace: str, port: int, program: str = SERVE) -> Iterator[None]:
    process = subprocess.Popen(_inside(namespace, program, str(port)), stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def _measure(namespace: str | None, program: str, *arguments: str) -> float:
    done = subprocess.run(_inside(namespace, program, *arguments), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(done.stderr)
    return float(done.stdout)


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("network namespaces need root")
    main()
