"""dockyardd: the composition root. Reads the settings, builds every service, wires them, serves the API."""

import asyncio
import errno
import fcntl
import gc
import json
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from dockyard.config import RELOADABLE, CommandLine, Config, help_text, load, merge
from dockyard.daemon import listeners
from dockyard.daemon.tls import TlsFront
from dockyard.errors import DockyardError, InvalidParameter, SystemFailure, words
from dockyard.folders import own_folder
from dockyard.linux import shutdown
from dockyard.prerequisites import complaint
from dockyard.version import VERSION
from dockyard.watchdog import Watchdog

if TYPE_CHECKING:
    from dockyard.daemon.assembly import Engine

log = logging.getLogger("dockyard.daemon")

MORE_TIME = 10  # how often the service manager is asked to wait on, s

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.FATAL,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The `dockyardd` command. Returns its exit status; what stops it from starting is one line on stderr."""
    _keep_from_children()
    try:
        line, config = load(sys.argv[1:] if arguments is None else arguments)
        if line.show_help:
            sys.stdout.write(help_text())
            return 0
        if line.show_version:
            print(f"Dockyard version {VERSION}")
            return 0
        if line.validate:
            _check(config)
            for warning in line.warnings:
                print(f"warning: {warning}", file=sys.stderr)
            print("configuration OK")
            return 0
        if os.geteuid() != 0:
            raise SystemFailure("dockyardd needs to be started with root privileges")
        lacking = complaint()
        if lacking:
            raise SystemFailure(lacking)
        _set_up_logging(config)
        for warning in line.warnings:
            log.warning("%s", warning)
        _use_proxies(config)
        with PidFile(config.pid_path):
            if line.recover:
                return _recover(config)
            if line.reset:
                return _reset(config)
            if line.stop_containers:
                return _stop_containers(config)
            asyncio.run(_run(line, config))
        return 0
    except (DockyardError, OSError) as error:
        print(f"dockyardd: {words(error)}", file=sys.stderr)
        return 1


def _check(config: Config) -> None:
    """Refuse what can be refused before there is anything of the daemon. Raises InvalidParameter, SystemFailure."""
    from dockyard.daemon import assembly

    if config.tls or config.tlsverify:
        listeners.tls_context(config)
    assembly.check(config)


def _recover(config: Config) -> int:
    """Rebuild the state database, saying on stdout what is done."""
    from dockyard.daemon.assembly import recover

    recover(config, print)
    return 0


def _reset(config: Config) -> int:
    """Take away all that the engine has, saying on stdout what is done."""
    from dockyard.daemon.assembly import reset

    asyncio.run(reset(config, print))
    return 0


def _stop_containers(config: Config) -> int:
    """End what an earlier daemon has left running."""
    from dockyard.daemon.assembly import stop_outlived

    asyncio.run(stop_outlived(config))
    return 0


def _keep_from_children() -> None:
    """Let no PYTHONPATH, PYTHONHOME and the like, which our launcher has passed over, reach our interpreters."""
    if sys.flags.ignore_environment:
        for name in [name for name in os.environ if name.startswith("PYTHON")]:
            del os.environ[name]


class PidFile:
    """Holds `path` locked with our PID in it while the daemon runs, so that two daemons never share a root."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        os.makedirs(os.path.dirname(self._path), mode=0o711, exist_ok=True)
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SystemFailure(f"cannot write the PID file: {words(error)}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(self._fd, 32).decode().strip()
            os.close(self._fd)
            raise SystemFailure(
                f"failed to start daemon: process with PID {pid} is still running ({self._path})"
            ) from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, str(os.getpid()).encode())

    def __exit__(self, *failure: object) -> None:
        Path(self._path).unlink(missing_ok=True)
        os.close(self._fd)


class JsonLines(logging.Formatter):
    """A log of JSON objects, with dockerd's keys."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said = record.getMessage()
        if record.exc_info:
            said += "\n" + self.formatException(record.exc_info)
        line = {
            "level": record.levelname.lower(),
            "module": record.name,
            "msg": said,
            "time": f"{moment}.{int(record.msecs):03d}Z",
        }
        return json.dumps(line)


class _Stderr(logging.StreamHandler[TextIO]):
    """The log; what it cannot take, because its disk is full or its reader gone, is lost without further words."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _set_up_logging(config: Config) -> None:
    logging.basicConfig(
        handlers=[_Stderr(sys.stderr)],
        format='time="%(asctime)s.%(msecs)03dZ" level=%(levelname)s module=%(name)s msg="%(message)s"',
        datefmt="%Y-%m-%dT%H:%M:%S",
        force=True,
    )
    logging.Formatter.converter = time.gmtime
    if config.log_format == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonLines())
    _set_level(config)


def _use_proxies(config: Config) -> None:
    """Have our HTTP client and the programs that we start go by way of the proxies that are set."""
    for name, value in (
        ("HTTP_PROXY", config.http_proxy),
        ("HTTPS_PROXY", config.https_proxy),
        ("NO_PROXY", config.no_proxy),
    ):
        if value:
            os.environ[name] = os.environ[name.lower()] = value


def _set_level(config: Config) -> None:
    logging.getLogger().setLevel(logging.DEBUG if config.debug else LEVELS[config.log_level])
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def handle_loop_errors() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """What the event loop does with faults nobody waits for: one line a second says that clients cannot be let in.

    While there are no descriptors the loop tries again every second, and would write thousands of tracebacks then. It
    tries even when the listener has been closed meanwhile (python/cpython, selector_events.py, `_accept_connection`).
    """
    told = -1.0

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal told
        error = context.get("exception")
        if isinstance(error, ValueError) and "._start_serving(" in context.get("message", ""):
            return
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() - told >= 1:
            told = loop.time()
            log.error("new clients have to wait: %s", words(error))

    return handle


async def _run(line: CommandLine, config: Config) -> None:
    """Serve until SIGTERM or SIGINT."""
    from dockyard.api.app import build_server
    from dockyard.daemon.assembly import Engine

    _check(config)  # before there is a socket: who can connect may count on an engine
    # Every container costs the daemon a few descriptors, every client one; the containers' own limit stays what it was.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 1 << 20), hard))
    os.umask(0o022)
    own_folder(config.data_root, 0o710)
    own_folder(config.exec_root, 0o711)  # the socket's users must be able to reach it
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(handle_loop_errors())
    # Enough that a few calls that hang (a volume on a dead NFS server) leave room for all others.
    loop.set_default_executor(ThreadPoolExecutor(64, thread_name_prefix="blocking"))
    stop, hangup = asyncio.Event(), asyncio.Event()
    # Before the first socket is there: who can reach the daemon can count on its taking a signal well.
    for signo in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signo, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    watchdog = Watchdog()
    async with AsyncExitStack() as stack:
        sockets = listeners.open_listeners(config)
        for address, opened, _ in sockets:
            stack.callback(listeners.close, address, opened)
        engine = Engine(config, watchdog.step, open_files=(soft, hard))
        stack.push_async_callback(engine.close)
        # containers that have outlived an earlier daemon may have to be stopped first
        asking = asyncio.ensure_future(_ask_for_time())
        stack.callback(asking.cancel)
        opened_well = await _opened(engine, stop, config.shutdown_timeout)
        asking.cancel()
        if not opened_well:
            _bound_end(watchdog, config.shutdown_timeout)
            return
        watchdog.done()
        server = build_server(engine.services)
        for _, opened, context in sockets:
            stack.push_async_callback(_stop_serving, await _serve(loop, server, opened, context))
        stack.callback(asyncio.ensure_future(_reload_on(hangup, line, engine)).cancel)
        # What was imported stays for good: out of the collector's way, and collections then are rare and short.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        for address, _, _ in sockets:
            log.info("API listen on %s", address)
        listeners.notify("READY=1")
        await stop.wait()
        listeners.notify("STOPPING=1")
        log.info("Daemon shutdown")
        _bound_end(watchdog, engine.config.shutdown_timeout)
        engine.services.events.end()
        await asyncio.wait_for(server.shutdown(1), 5)
        if not engine.config.live_restore or await asyncio.to_thread(shutdown.is_under_way):
            log.info("Stopping all containers")
            asking = asyncio.ensure_future(_ask_for_time())
            stack.callback(asking.cancel)
            watchdog.at("the containers' end", engine.longest_stop())
            await engine.stop_containers()
            _bound_end(watchdog, engine.config.shutdown_timeout)


async def _opened(engine: "Engine", stop: asyncio.Event, patience: int) -> bool:
    """Start the engine; False when the daemon was told to stop meanwhile. What is begun then may take `patience` s."""
    opening = asyncio.ensure_future(engine.open())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            log.info("told to stop while starting")
            await asyncio.wait({opening}, timeout=patience if patience > 0 else None)
        if not opening.done():
            opening.cancel()
            await asyncio.wait({opening}, timeout=1)
            return False
        opening.result()
        return True
    finally:
        stopping.cancel()


def _bound_end(watchdog: Watchdog, timeout: int) -> None:
    """From here on the daemon's end takes at most `timeout` seconds (not above 0: as long as it takes).

    What is acknowledged is in the database, and what is left behind the next daemon finds as after a crash.
    """
    watchdog.at("what is under way to end (--shutdown-timeout)", max(timeout, 0), 0)


async def _serve(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], asyncio.BaseProtocol],
    opened: socket.socket,
    context: ssl.SSLContext | None,
) -> asyncio.AbstractServer:
    opened.setblocking(False)
    if opened.family == socket.AF_UNIX:
        return await loop.create_unix_server(factory, sock=opened, backlog=1024)
    if context is not None:
        return await loop.create_server(lambda: TlsFront(context, factory), sock=opened, backlog=1024)
    return await loop.create_server(factory, sock=opened, backlog=1024)


async def _stop_serving(running: asyncio.AbstractServer) -> None:
    running.close()


async def _ask_for_time() -> None:
    """Have the service manager wait for us: containers may take longer to end than a service may by default."""
    while True:
        listeners.notify(f"EXTEND_TIMEOUT_USEC={3 * MORE_TIME * 10**6}")
        await asyncio.sleep(MORE_TIME)


async def _reload_on(hangup: asyncio.Event, line: CommandLine, engine: "Engine") -> None:
    """At every SIGHUP read daemon.json anew."""
    while True:
        await hangup.wait()
        hangup.clear()
        _reload(line, engine)


def _reload(line: CommandLine, engine: "Engine") -> None:
    """Take up what of the settings can change while the daemon runs; a bad file changes nothing."""
    try:
        config = merge(line)
    except InvalidParameter as error:
        log.error("cannot reload the configuration: %s", error)
        return
    changed = {name: getattr(config, name) for name in RELOADABLE}
    engine.reload(msgspec.structs.replace(engine.config, **changed))
    _set_level(config)
    log.info("Reloaded configuration")
