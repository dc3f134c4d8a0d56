"""`up` in the foreground: output of all containers, an end by Ctrl-C, by a container's end, or when all have ended."""

from __future__ import annotations

import queue
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from dockyard.client.container import Container
from dockyard.client.errors import APIError, ClientError, Conflict, NotFound
from dockyard.compose.plan.observed import Observed, of_services
from dockyard.compose.plan.order import together
from dockyard.compose.run.logs import LogRequest, ended, log_lines
from dockyard.compose.run.monitor import Monitor
from dockyard.compose.run.progress import colored
from dockyard.compose.run.starting import start_services
from dockyard.compose.run.stopping import stop_services

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dockyard.compose.run.application import Application
    from dockyard.compose.run.logs import LogPrinter

INTERRUPTED = 130
A_MOMENT = 1.0  # seconds


class AttachRequest(NamedTuple):
    """What `up` takes for its time in the foreground."""

    attach_to: Sequence[str] = ()
    abort_on_exit: bool = False
    abort_on_failure: bool = False
    exit_code_from: str = ""
    timeout: int | None = None
    services: Sequence[str] = ()
    once_started: Sequence[Callable[[], None]] = ()


class Attached:
    """Shows what the containers of a project write, until they have ended."""

    def __init__(self, application: Application, request: AttachRequest, printer: LogPrinter) -> None:
        self._application = application
        self._request = request
        self._printer = printer
        self._happenings: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._attached: set[str] = set()
        self._stopping = False
        self._code = 0
        self._decided = False  # whether the container that the exit status is to come from has ended
        self._errors: list[BaseException] = []
        self._start_ended = threading.Event()

    def run(self, containers: Sequence[Observed]) -> int:
        """Start the project and stay until it has ended; the exit status. Raises ComposeError, ClientError."""
        handlers = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return self._run(containers)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: Any) -> None:
        self._happenings.put(("signal", number))

    def _run(self, containers: Sequence[Observed]) -> int:
        monitor = Monitor(self._application, self._request.services or self._request.attach_to)
        monitor.on_exit.append(self._exited)
        monitor.on_start.append(self._started)
        monitor.on_recreate.append(lambda name: self._printer.status(name, "has been recreated"))
        shown = of_services(containers, self._request.attach_to)
        for one in shown:
            self._printer.register(one.short_name)
        for one in shown:
            self._attach(one)
        self._thread(monitor.run, "ended")
        monitor.wait_until_ready()
        self._thread(self._start, "started")
        interrupted = self._wait()
        for thread in self._threads:
            thread.join(2)
        if self._errors and not interrupted:
            raise self._errors[0]
        return INTERRUPTED if interrupted else self._code

    def _start(self) -> None:
        try:
            start_services(self._application, output=self._printer.line)
        finally:
            self._start_ended.set()

    def _wait(self) -> bool:
        """Return when all have ended; whether somebody has asked for it."""
        interrupted = over = False
        while not over:
            what, detail = self._next()
            if what != "started":
                self._printer.settle()
            if what == "signal" and not interrupted:
                interrupted = True
                print("Gracefully Stopping... press Ctrl+C again to force", flush=True)
                self._stop()
            elif what == "signal" and detail == signal.SIGINT:
                threading.Thread(target=self._kill, daemon=True).start()
            elif what == "abort":
                print(colored("Aborting on container exit...", "31"), file=sys.stderr, flush=True)
                self._stop()
            elif what == "ended":
                over = True
                if detail is not None:
                    self._errors.append(detail)
            elif what == "started":
                if detail is not None and not self._stopping:
                    self._errors.append(detail)
                    over = True
                elif detail is None:
                    for work in self._request.once_started:
                        work()
            elif detail is not None:
                self._errors.append(detail)
        return interrupted

    def _next(self) -> tuple[str, Any]:
        """What happens next; a signal that comes just before a wait does not end it, so that no wait is a long one."""
        while True:
            try:
                return self._happenings.get(timeout=A_MOMENT)
            except queue.Empty:
                continue

    def _thread(self, work: Callable[[], None], what: str) -> None:
        """Do `work` aside, and tell the main thread how it ended."""

        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._happenings.put((what, error))
            else:
                self._happenings.put((what, None))

        threading.Thread(target=run, daemon=True).start()

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            request = self._request

            def stop() -> None:
                # what would be started after it was stopped would go on
                self._start_ended.wait(A_MOMENT)
                stop_services(self._application, request.services, request.timeout, self._printer.line)

            self._thread(stop, "stopped")

    def _kill(self) -> None:
        engine = self._application.engine

        def killing(one: Observed) -> Callable[[], None]:
            def work() -> None:
                try:
                    engine.post(f"/containers/{one.id}/kill")
                    self._application.progress.event(f"Container {one.name}", "Killed")
                except (NotFound, Conflict):
                    pass  # it has ended by itself

            return work

        together([killing(one) for one in engine.containers(self._application.project.name, self._request.services)])

    # -- what the monitor tells

    def _exited(self, id: str, name: str, service: str, code: int, restarting: bool) -> None:
        if not self._request.attach_to or service in self._request.attach_to:
            self._printer.status(name, ended(code, restarting))
        request = self._request
        if request.exit_code_from:
            if service == request.exit_code_from and not self._decided:
                self._code, self._decided = code, True
        elif (request.abort_on_exit or (request.abort_on_failure and code)) and not self._stopping:
            self._code = code
        if (request.abort_on_exit or (request.abort_on_failure and code)) and not self._stopping:
            self._happenings.put(("abort", None))

    def _started(self, id: str, name: str, restarting: bool) -> None:
        if id in self._attached and not restarting:
            return
        found = self._application.engine.container(id)
        service = (found["Config"].get("Labels") or {}).get("com.docker.compose.service", "")
        if self._request.attach_to and service not in self._request.attach_to:
            return
        request = LogRequest(follow=True, since=found["State"]["StartedAt"])
        self._reader(lambda: log_lines(self._application, id, name, request, self._printer.line))

    # -- output

    def _attach(self, one: Observed) -> None:
        self._attached.add(one.id)
        there: Container[Any] = Container(self._application.engine.client._session, one.id)
        running = one.state == "running"
        try:
            process = there.attach(logs=False)
        except APIError:
            if not running:
                raise
            return

        def read() -> None:
            pending: dict[str, bytes] = {}
            for stream, data in process:
                *lines, pending[stream] = (pending.get(stream, b"") + data).split(b"\n")
                for line in lines:
                    self._printer.line(one.short_name, _text(line), error=stream == "stderr")
            for stream, line in pending.items():
                if line:
                    self._printer.line(one.short_name, _text(line), error=stream == "stderr")

        self._reader(read)

    def _reader(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except (ClientError, OSError):
                pass  # its container is gone

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._threads.append(thread)


def _text(data: bytes) -> str:
    return data.decode(errors="replace").removesuffix("\r")
