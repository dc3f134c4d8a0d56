"""One build's way through the graph: every step that a result needs is looked up or made, once.

Those that don't wait for others go side by side. A job holds what it has asked for until its end.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from dockyard.builder.cache.config import ImportedStep
from dockyard.builder.cache.explanation import why_hit, why_missed
from dockyard.builder.cache.records import StepRow
from dockyard.builder.copying import SourceNotFound
from dockyard.builder.graph.progress import Output, Part, Progress, Step, now
from dockyard.builder.graph.vertex import Result, Rootfs, Vertex
from dockyard.builder.graph.work import Flight, Work, step_facts
from dockyard.builder.source_policy import SourceDenied, SourcePolicy
from dockyard.engine.images.layer_store import chains_of
from dockyard.engine.images.layers import register_layers
from dockyard.errors import DockyardError, NotFound, words

if TYPE_CHECKING:
    from dockyard.builder.graph.client import ClientSide
    from dockyard.builder.graph.solver import Solver


log = logging.getLogger("dockyard.builder")


T = TypeVar("T")


class StepFailed(DockyardError):
    """A step went wrong; `vertex` says which, the cause is the reason."""

    def __init__(self, vertex: Vertex, cause: BaseException) -> None:
        super().__init__(_words(cause))
        self.vertex = vertex
        self.exit_code = getattr(cause, "exit_code", None)
        self.__cause__ = cause


def _words(cause: BaseException) -> str:
    """What went wrong, as BuildKit's users know it."""
    if isinstance(cause, SourceNotFound):
        reference = hashlib.sha256(cause.path.encode()).hexdigest()[:25]
        where = f"failed to compute cache key: failed to calculate checksum of ref {reference}"
        return f'{where}: "/{cause.path}": not found'
    return words(cause)


def _identity(step: ImportedStep) -> tuple[object, ...]:
    return step.diff_ids, step.row.parent, step.row.name, step.row.created


class Job:
    """One build's way through the graph."""

    def __init__(self, solver: Solver, client: ClientSide, progress: Progress) -> None:
        self.solver = solver
        self.client = client
        self.progress = progress
        self.explain = False
        self.policy = SourcePolicy()
        # what makes a step of a source that a policy has put in another one's place
        self.open_source: Callable[[str, Mapping[str, str]], Awaitable[Vertex]] | None = None
        # steps that caches tell of which this build has named, and how to get layers that those have
        self.imported: dict[str, ImportedStep] = {}
        self.remote_layers: dict[str, Callable[[], AsyncIterator[bytes]]] = {}
        self._aliases: dict[tuple[object, ...], list[str]] = {}
        self._remade: set[Vertex] = set()  # what nobody's claim counts for any more
        self.keys: dict[Vertex, list[str]] = {}
        self.holds: list[str] = []
        self.rows: dict[Vertex, StepRow] = {}
        self.closing: list[Callable[[], object]] = []
        # builds whose results this one goes on from
        self.elders: list[Job] = []
        self._users = 1  # itself, and those
        solver.jobs.add(self)
        self._tasks: dict[Vertex, asyncio.Future[Result]] = {}
        self._told: set[str] = set()
        self._asked: set[str] = set()

    async def result(self, vertex: Vertex) -> Result:
        """What comes of a step. Raises StepFailed for the one that went wrong."""
        task = self._tasks.get(vertex)
        if task is None:
            work = self._inherited(vertex) or self._solve(vertex)
            task = self._tasks[vertex] = asyncio.ensure_future(work)
        return task.result() if task.done() else await asyncio.shield(task)

    def know(self, vertex: Vertex, result: Result) -> None:
        """Take this for what comes of a step, which then is not done."""
        self._tasks[vertex] = known = asyncio.get_running_loop().create_future()
        known.set_result(result)

    def first(self, what: str) -> bool:
        """Whether this is asked for the first time in this build."""
        if what in self._asked:
            return False
        self._asked.add(what)
        return True

    def done(self, vertex: Vertex) -> Result | None:
        """What has come of a step; None when it was not done."""
        task = self._tasks.get(vertex)
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    async def rootfs(self, vertex: Vertex | None) -> Rootfs:
        """The same of one that makes a root file system; None stands for an empty one."""
        if vertex is None:
            return Rootfs()
        found = await self.result(vertex)
        assert isinstance(found, Rootfs)
        return found

    def _inherited(self, vertex: Vertex) -> Coroutine[Any, Any, Result] | None:
        """How to take over what another build has made of the vertex, or is making; None when none has."""
        for elder in self.elders:
            task = elder._tasks.get(vertex)
            if task is not None and not (task.done() and (task.cancelled() or task.exception() is not None)):
                return self._inherit(vertex, elder, task)
        return None

    async def _inherit(self, vertex: Vertex, elder: Job, task: asyncio.Future[Result]) -> Result:
        try:
            result = await asyncio.shield(task)
            if isinstance(result, Rootfs) and result.chain_id is not None:
                self.hold(result.chain_id)
        except (NotFound, asyncio.CancelledError):
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            return await self._solve(vertex)
        if vertex in elder.rows:
            self.rows[vertex] = elder.rows[vertex]
        moment = now()
        self._step(vertex, cached=True, started=moment, completed=moment)
        return result

    async def here(self, vertex: Vertex) -> Rootfs:
        """The root file system that comes of a step, with all its layers here. Raises StepFailed."""
        found = await self._present(vertex, await self.rootfs(vertex))
        assert isinstance(found, Rootfs)
        return found

    async def _present(self, vertex: Vertex, result: Result) -> Result:
        """A result whose layers are here: brought from the cache that tells of it, or else made."""
        if not isinstance(result, Rootfs) or result.chain_id is None or result.chain_id in self.solver.layers:
            return result
        try:
            if await self._bring(result):
                return result
        except DockyardError as error:
            log.info("layers of %s can't be had from a cache: %s", vertex.name, error)
        if vertex not in self._remade:
            self._remade.add(vertex)
            self._tasks[vertex] = asyncio.ensure_future(self._solve(vertex))
        return await asyncio.shield(self._tasks[vertex])

    async def _bring(self, rootfs: Rootfs) -> bool:
        """Fetch the layers that are missing; whether there is somewhere to fetch them from."""
        layers = self.solver.layers
        pairs = zip(rootfs.diff_ids, chains_of(rootfs.diff_ids), strict=True)
        missing = [diff_id for diff_id, chain_id in pairs if chain_id not in layers]
        if not all(diff_id in self.remote_layers for diff_id in missing):
            return False
        async with self.shown(f"[internal] fetching {len(missing)} layers from the cache"):

            def source(index: int, diff_id: str) -> Callable[[], Awaitable[AsyncIterator[bytes]]]:
                async def opened() -> AsyncIterator[bytes]:
                    return self.remote_layers[diff_id]()

                return opened

            for layer in await register_layers(self.solver.images, list(rootfs.diff_ids), source):
                self.holds.append(layer.chain_id)
        return True

    async def _solve(self, vertex: Vertex) -> Result:
        if self.policy and (other := await self._instead(vertex)) is not None:
            return await self._solve(other)
        inputs = await self._inputs(vertex)
        key = vertex.key(inputs)
        found = None if vertex.ignore_cache or not key else self._cached(vertex, key, inputs)
        if found is not None:
            return found
        if vertex.ready or vertex.hidden:
            moment = now()
            inputs = await self._all_present(vertex, inputs)
            result = await self._fly(vertex, vertex.key(inputs), "", inputs)
            self._step(vertex, cached=not vertex.fresh, started=moment, completed=now())
            return result
        return await self._watched(vertex, lambda started: self._make(vertex, key, inputs, started))

    async def _instead(self, vertex: Vertex) -> Vertex | None:
        """What the client's policy puts in the place of a source; None for the source itself. Raises StepFailed."""
        source = vertex.source()
        if source is None:
            return None
        try:
            found = self.policy.applied(*source)
            if found == source:
                return None
            if self.open_source is None:
                raise SourceDenied(f'source "{found[0]}" cannot be opened')
            return await self.open_source(*found)
        except DockyardError as error:
            raise StepFailed(vertex, error) from error

    async def _inputs(self, vertex: Vertex) -> list[Result]:
        done = [self.done(other) for other in vertex.inputs]
        if all(done):
            return [one for one in done if one is not None]
        waiting = [asyncio.ensure_future(self.result(other)) for other in vertex.inputs]
        try:
            return list(await asyncio.gather(*waiting))
        except BaseException:
            for task in waiting:
                task.cancel()
            raise

    def _step(self, vertex: Vertex, **facts: Any) -> None:
        if vertex.hidden:
            return
        inputs = tuple(other.digest for other in vertex.inputs if not other.hidden)
        self.progress.add(Step(vertex.digest, vertex.name, inputs, **facts))

    def hold(self, chain_id: str) -> None:
        """Keep a layer until the end of the build. Raises NotFound."""
        self.solver.layers.hold(chain_id)
        self.holds.append(chain_id)

    def announce(self, vertex: Vertex) -> None:
        """Show steps before they begin: those that a result stands on, too."""
        if vertex.digest not in self._told:
            self._told.add(vertex.digest)
            for other in vertex.inputs:
                self.announce(other)
            self._step(vertex)

    def _cached(self, vertex: Vertex, key: str, inputs: Sequence[Result], started: int = 0) -> Result | None:
        row = self.solver.cache.find(key)
        if row is not None and (row.chain_id is None or row.chain_id in self.solver.layers):
            result = self._known(vertex, row, inputs)
        else:
            imported = self.imported.get(key) if vertex not in self._remade else None
            if imported is None:
                return None
            row = imported.row
            # by all keys under which caches know it: what is written of it then is the same again
            for other in self._aliases[_identity(imported)]:
                self._note_key(vertex, other)
            result = Rootfs(imported.diff_ids, row.created)
        if row.chain_id is not None and row.chain_id in self.solver.layers:
            self.hold(row.chain_id)
        self.rows[vertex] = row
        self._note_key(vertex, key)
        moment = now()
        if self.explain and not vertex.hidden:
            self._step(vertex, started=started or moment)
            self.progress.add(Output(vertex.digest, 1, why_hit(row).encode(), moment))
        self._step(vertex, cached=True, started=started or moment, completed=moment)
        return result

    def take_up(
        self, steps: Mapping[str, ImportedStep], layers: Mapping[str, Callable[[], AsyncIterator[bytes]]]
    ) -> None:
        """Have steps that a cache tells of, and layers that it has by their diff IDs."""
        self.imported.update(steps)
        self.remote_layers.update(layers)
        for key, step in steps.items():
            self._aliases.setdefault(_identity(step), []).append(key)

    def _known(self, vertex: Vertex, row: StepRow, inputs: Sequence[Result]) -> Rootfs:
        """The result that a record of ours tells of."""
        base = inputs[vertex.base] if inputs else Rootfs()
        if not isinstance(base, Rootfs) or base.chain_id != row.parent:
            base = self.stack(row.parent)
        return Rootfs((*base.diff_ids, row.diff_id) if row.diff_id else base.diff_ids, row.created)

    def _note_key(self, vertex: Vertex, key: str) -> None:
        known = self.keys.setdefault(vertex, [])
        if key and key not in known:
            known.append(key)

    def stack(self, chain_id: str | None) -> Rootfs:
        """The root file system whose topmost layer this is."""
        found: list[str] = []
        while chain_id is not None:
            layer = self.solver.layers.get(chain_id)
            found.append(layer.diff_id)
            chain_id = layer.parent
        return Rootfs(tuple(reversed(found)))

    async def _watched(self, vertex: Vertex, work: Callable[[int], Awaitable[T]]) -> T:
        """Do the work with its beginning and end shown."""
        started = now()
        self._step(vertex, started=started)
        try:
            return await work(started)
        except asyncio.CancelledError:
            self._step(vertex, started=started, completed=now(), error="context canceled")
            raise
        except StepFailed as failure:
            self._step(vertex, started=started, completed=now(), error=words(failure))
            raise
        except Exception as error:
            if not isinstance(error, DockyardError | OSError | ConnectionError):
                log.exception("step %s failed", vertex.name)
            self._step(vertex, started=started, completed=now(), error=words(error))
            raise StepFailed(vertex, error) from error

    @asynccontextmanager
    async def shown(self, name: str, digest: str = "") -> AsyncIterator[Callable[[str, int, int, bool], None]]:
        """Something that is no step of the graph, shown as one; what tells how far a part of it is.

        It is given (name, bytes so far, bytes in all, whether it is done).
        """
        started = now()
        digest = digest or f"sha256:{secrets.token_hex(32)}"
        parts: dict[str, int] = {}

        def part(name: str, current: int, total: int, done: bool) -> None:
            begun = parts.setdefault(name, now())
            self.progress.add(Part(digest, name, current, total, begun, now() if done else 0))

        self.progress.add(Step(digest, name, started=started))
        try:
            yield part
        except BaseException as error:
            said = "context canceled" if isinstance(error, asyncio.CancelledError) else words(error)
            self.progress.add(Step(digest, name, started=started, completed=now(), error=said))
            raise
        self.progress.add(Step(digest, name, started=started, completed=now()))

    async def _all_present(self, vertex: Vertex, inputs: Sequence[Result], *, but_base: bool = False) -> list[Result]:
        """What a step is made of, with all layers here; with `but_base` its first input as it is."""
        pairs = list(zip(vertex.inputs, inputs, strict=True))
        there = [result for _, result in pairs[:1]] if but_base else []
        return there + [await self._present(other, result) for other, result in pairs[len(there) :]]

    async def _by_content(
        self, vertex: Vertex, key: str, inputs: Sequence[Result], started: int
    ) -> tuple[str, Result | None]:
        """What a step is known by, told from its inputs' contents but the base's, and what is known of it."""
        looking = Flight()
        looking.waiting.append((self, vertex))
        content = await vertex.content_key(Work(self, vertex, looking), inputs)
        found = self._cached(vertex, content, inputs, started) if content and not vertex.ignore_cache else None
        if found is not None and key and content not in self.imported and (row := self.rows.get(vertex)) is not None:
            self.solver.cache.put(key, row.parent, row.diff_id, name=row.name, created=row.created, facts=row.facts)
        return content, found

    async def _make(self, vertex: Vertex, key: str, claimed: Sequence[Result], started: int) -> Result:
        inputs = await self._all_present(vertex, claimed, but_base=True)
        content, found = await self._by_content(vertex, key, inputs, started)
        if found is not None:
            return found
        there = await self._all_present(vertex, inputs)
        if there != list(claimed):  # somebody's claim could not be kept, and what it was about has been made
            inputs, key = there, vertex.key(there)
            found = None if vertex.ignore_cache or not key else self._cached(vertex, key, inputs, started)
            if found is None:
                content, found = await self._by_content(vertex, key, inputs, started)
            if found is not None:
                return found
        if self.explain:
            rows = [row for _, row in self.solver.cache.rows()]
            said = why_missed(step_facts(vertex, inputs), rows)
            if vertex.ignore_cache:
                said = "cache miss: this step was to be made anew\n"
            if key or content:
                self.progress.add(Output(vertex.digest, 1, said.encode(errors="replace"), now()))
        result = await self._fly(vertex, key, content, inputs)
        self._step(vertex, started=started, completed=now())
        return result

    async def _fly(self, vertex: Vertex, key: str, content: str, inputs: Sequence[Result]) -> Result:
        """Make it, or wait for who is making it."""
        self._note_key(vertex, key)
        self._note_key(vertex, content)
        name = content or key or secrets.token_hex(16)
        if vertex.ignore_cache:
            name += secrets.token_hex(8)
        flight = self.solver.flights.get(name)
        if flight is None:
            flight = self.solver.flights[name] = Flight()
            flight.task = asyncio.ensure_future(
                self._made(flight, Work(self, vertex, flight), [one for one in (key, content) if one], inputs)
            )
            flight.task.add_done_callback(lambda _: self.solver.flights.pop(name, None))
        me = (self, vertex)
        flight.waiting.append(me)
        assert flight.task is not None
        try:
            result, row = await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            flight.waiting.remove(me)
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()
                with suppress(BaseException):
                    await asyncio.shield(flight.task)
            raise
        if row is not None:
            self.rows[vertex] = row
        if isinstance(result, Rootfs) and result.chain_id is not None:
            with suppress(NotFound):
                self.hold(result.chain_id)
        return result

    async def _made(
        self, flight: Flight, work: Work, keys: Sequence[str], inputs: Sequence[Result]
    ) -> tuple[Result, StepRow | None]:
        try:
            return await self._made_and_noted(flight, work, keys, inputs)
        finally:
            for chain_id in flight.holds:
                self.solver.layers.drop(chain_id)

    async def _made_and_noted(
        self, flight: Flight, work: Work, keys: Sequence[str], inputs: Sequence[Result]
    ) -> tuple[Result, StepRow | None]:
        result = await work.vertex.make(work, inputs)
        row = None
        if isinstance(result, Rootfs) and result.chain_id is not None:
            for job, _ in flight.waiting:
                job.hold(result.chain_id)
        if isinstance(result, Rootfs):
            parent, top = result, ""
            base = inputs[work.vertex.base] if inputs else Rootfs()
            if result.diff_ids and not (isinstance(base, Rootfs) and base.diff_ids == result.diff_ids):
                parent, top = Rootfs(result.diff_ids[:-1]), result.diff_ids[-1]
            for key in keys:
                row = self.solver.cache.put(
                    key,
                    parent.chain_id,
                    top,
                    name=work.vertex.name,
                    created=result.created,
                    facts=step_facts(work.vertex, inputs),
                )
        return result, row

    def go_on_from(self, elder: Job) -> None:
        """Take over what another build makes or has made; it keeps that until this one ends."""
        if elder not in self.elders:
            elder._users += 1
            self.elders.append(elder)

    async def close(self) -> None:
        """Give up what is under way, and let go of everything that no other build goes on from."""
        tasks = [task for task in self._tasks.values() if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._let_go()
        for elder in self.elders:
            elder._let_go()

    def _let_go(self) -> None:
        self._users -= 1
        if self._users:
            return
        self.solver.jobs.discard(self)
        for chain_id in self.holds:
            self.solver.layers.drop(chain_id)
        self.holds.clear()
        for close in self.closing:
            close()
        self.closing.clear()
