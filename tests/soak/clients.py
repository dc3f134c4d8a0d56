"""Clients that use an engine at random and keep books: what they were told is done, and what was under way."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.api_client import Api, ApiError

ABSENT = "absent"
# A container that ends by itself may be found in either state.
SHORT_LIVED = frozenset({"running", "exited"})


@dataclass
class Thing:
    """Something of one client's: `states` are those in which it may be found now."""

    kind: str
    name: str
    states: frozenset[str] = frozenset({ABSENT})
    id: str = ""
    short: bool = False
    connected: bool = False
    history: list[str] = field(default_factory=list)  # what was done with it last, for who reads a failure

    @property
    def state(self) -> str:
        """The state it is in, or for a short-lived one the last that is known."""
        return next(iter(self.states)) if len(self.states) == 1 else "running"


@dataclass
class Books:
    """What all clients have done."""

    done: Counter[str] = field(default_factory=Counter)
    interrupted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)


class Client(threading.Thread):
    """One of the many. It stops at the gate whenever the engine hangs up on it."""

    def __init__(self, number: int, api: Api, seed: int, books: Books, gate: "Gate") -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.number = number
        self.api = api
        self.books = books
        self.gate = gate
        self.random = random.Random(f"{seed}-{number}")
        self.containers = [
            Thing("container", f"c{number}-0"),
            Thing("container", f"c{number}-1", short=number % 3 == 0),
        ]
        self.volume = Thing("volume", f"v{number}")
        self.image = Thing("image", f"soak-{number}:latest")
        self.network = Thing("network", f"n{number}") if number < 8 else None
        self.failure: BaseException | None = None
        self.passing = 0  # `--rm` containers it has started

    @property
    def things(self) -> list[Thing]:
        """All it owns."""
        further = [self.network] if self.network is not None else []
        return [*self.containers, self.volume, self.image, *further]

    def run(self) -> None:
        last = 0
        while self.gate.enter(last):
            last = self.gate.opening
            try:
                while self.gate.open:
                    self.act()
            except OSError:
                pass  # the engine hung up
            except BaseException as failure:
                self.failure = failure
                return
            finally:
                self.gate.leave()

    def act(self) -> None:
        """One thing at random."""
        choice = self.random.random()
        if choice < 0.72:
            self.with_container(self.random.choice(self.containers))
        elif choice < 0.80:
            self.passing_container()
        elif choice < 0.88:
            self.with_volume()
        elif choice < 0.92:
            self.with_image()
        elif self.network is not None:
            self.with_network(self.network)
        else:
            self.do("list", lambda: self.api.get("/containers/json", all=1))

    def do(
        self,
        name: str,
        work: Callable[[], object],
        thing: Thing | None = None,
        after: frozenset[str] | None = None,
    ) -> object:
        """Do `work`; `thing` is then in one of the states `after`, until it is acknowledged maybe still as before."""
        before = thing.states if thing is not None else frozenset()
        if thing is not None and after is not None:
            thing.states = before | after
        note = self.note(name, thing)
        try:
            answer = work()
        except ApiError as error:
            note(f"refused: {error}")
            if thing is not None:
                thing.states = before
            self.books.refused[f"{name}: {error.status} {_general(str(error))}"] += 1
            return None
        except OSError:
            note("cut off")
            self.books.interrupted[name] += 1
            raise
        if thing is not None and after is not None:
            thing.states = after
        note("done")
        self.books.done[name] += 1
        return answer

    @staticmethod
    def note(name: str, thing: Thing | None) -> Callable[[str], None]:
        """Begin a line of the thing's history; what is returned ends it."""

        def end(how: str) -> None:
            if thing is not None:
                thing.history = [*thing.history[-7:], f"{name} {how}"]

        return end

    def with_container(self, thing: Thing) -> None:
        api, path = self.api, f"/containers/{thing.name}"
        state = thing.state
        if state == ABSENT:
            command = ["sh", "-c", "sleep 0.4; exit 7"] if thing.short else ["sleep", "1000"]
            host: dict[str, object] = {"PidsLimit": 50}
            if self.number % 5 == 0:
                host["PortBindings"] = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
            volumes = {"/data": {}} if self.number % 2 else {}
            created = self.do(
                "create",
                lambda: api.create(*command, name=thing.name, host=host, Volumes=volumes),
                thing,
                frozenset({"created"}),
            )
            thing.id = str(created or "")
            thing.connected = False
        elif state in ("created", "exited"):
            if self.random.random() < 0.7:
                running = SHORT_LIVED if thing.short else frozenset({"running"})
                self.do("start", lambda: api.post(f"{path}/start"), thing, running)
            else:
                self.do("remove", lambda: api.delete(path, v=1), thing, frozenset({ABSENT}))
        elif state == "paused":
            self.do("unpause", lambda: api.post(f"{path}/unpause"), thing, frozenset({"running"}))
        elif thing.short:
            if self.random.random() < 0.5:
                self.do("wait", lambda: api.wait(thing.name), thing, frozenset({"exited"}))
            else:
                self.remove_by_force(thing)
        else:
            self.with_running(thing, path)

    def with_running(self, thing: Thing, path: str) -> None:
        api = self.api
        act = self.random.choice(("exec", "exec", "stop", "kill", "pause", "restart", "remove -f", "connect", "logs"))
        if act == "exec":
            self.do("exec", lambda: self.execute(thing))
        elif act == "stop":
            self.do("stop", lambda: api.post(f"{path}/stop", t=0), thing, frozenset({"exited"}))
        elif act == "kill":
            self.do("kill", lambda: api.post(f"{path}/kill"), thing, frozenset({"exited"}))
        elif act == "pause":
            self.do("pause", lambda: api.post(f"{path}/pause"), thing, frozenset({"paused"}))
        elif act == "restart":
            thing.states = frozenset({"running", "exited"})  # in between it has ended
            self.do("restart", lambda: api.post(f"{path}/restart", t=0), thing, frozenset({"running"}))
        elif act == "remove -f":
            self.remove_by_force(thing)
        elif act == "connect" and self.network is not None and self.network.state == "present":
            body = {"Container": thing.name}
            verb = "disconnect" if thing.connected else "connect"
            if self.do(verb, lambda: api.post(f"/networks/{self.network.name}/{verb}", body) or True):  # type: ignore[union-attr]
                thing.connected = not thing.connected
        else:
            self.do("logs", lambda: api.logs(thing.name))

    def execute(self, thing: Thing) -> None:
        """Run a command in the container; what it says must arrive, or else the engine be dead."""
        said = self.api.execute(thing.name, "echo", "hello")
        if said != b"hello\n":
            self.api.get("/_ping")
            raise AssertionError(f"an exec in {thing.name} said {said!r}")

    def remove_by_force(self, thing: Thing) -> None:
        thing.states |= {"exited"}  # in between it has ended
        self.do("remove -f", lambda: self.api.remove(thing.name), thing, frozenset({ABSENT}))

    def passing_container(self) -> None:
        """What `docker run --rm` does."""
        name = f"p{self.number}-{self.passing}"
        self.passing += 1
        host = {"AutoRemove": True}
        container = self.do(
            "run --rm", lambda: self.api.run("sh", "-c", "echo done", name=name, host=host, Volumes={"/data": {}})
        )
        if container and self.random.random() < 0.5:
            self.do("wait", lambda: self.api.post(f"/containers/{container}/wait", condition="removed"))

    def with_volume(self) -> None:
        thing, api = self.volume, self.api
        if thing.state == ABSENT:
            self.do(
                "volume create",
                lambda: api.post("/volumes/create", {"Name": thing.name}),
                thing,
                frozenset({"present"}),
            )
        else:
            self.do("volume rm", lambda: api.delete(f"/volumes/{thing.name}"), thing, frozenset({ABSENT}))

    def with_image(self) -> None:
        thing, api = self.image, self.api
        source = self.containers[0]
        if thing.state != ABSENT:
            self.do("rmi", lambda: api.delete(f"/images/{thing.name}"), thing, frozenset({ABSENT}))
        elif source.state in ("created", "running", "exited"):
            repo = thing.name.partition(":")[0]
            self.do(
                "commit",
                lambda: api.post("/commit", {}, container=source.name, repo=repo, tag="latest"),
                thing,
                frozenset({"present"}),
            )

    def with_network(self, thing: Thing) -> None:
        api = self.api
        if thing.state == ABSENT:
            body = {"Name": thing.name}
            self.do("network create", lambda: api.post("/networks/create", body), thing, frozenset({"present"}))
        elif not any(container.connected for container in self.containers):
            self.do("network rm", lambda: api.delete(f"/networks/{thing.name}"), thing, frozenset({ABSENT}))


class Gate:
    """Holds all clients back while somebody looks at the engine."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._ended = False
        self.open = False
        self.opening = 0
        self.inside: set[str] = set()

    def enter(self, last: int) -> bool:
        """Wait to be let in, at another opening than the `last`; False when all is over."""
        with self._condition:
            self._condition.wait_for(lambda: (self.open and self.opening > last) or self._ended)
            if not self._ended:
                self.inside.add(threading.current_thread().name)
            return not self._ended

    def leave(self) -> None:
        """Of a client: be outside."""
        with self._condition:
            self.inside.discard(threading.current_thread().name)
            self._condition.notify_all()

    def let_in(self) -> None:
        """Begin."""
        with self._condition:
            self.open = True
            self.opening += 1
            self._condition.notify_all()

    def shut(self, patience: float) -> set[str]:
        """Wait until all are outside; who is not after `patience` seconds."""
        with self._condition:
            self.open = False
            self._condition.wait_for(lambda: not self.inside, patience)
            return set(self.inside)

    def end(self) -> None:
        """Send everybody home."""
        with self._condition:
            self.open, self._ended = False, True
            self._condition.notify_all()


def _general(message: str) -> str:
    """A refusal without the names in it."""
    words = message.replace('"', " ").replace("/", " ").split()
    return " ".join(word for word in words if not any(letter.isdigit() for letter in word))[:400]
