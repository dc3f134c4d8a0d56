"""What every command works with: the connection to the engine, which is started if need be."""

from __future__ import annotations

import os
import sys

from dockyard.client.errors import Unreachable
from dockyard.client.http import DEFAULT_HOST, ApiError, Connection
from dockyard.oci.quick_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

START_PATIENCE = 15.0  # seconds
LOG = "/run/dockyard/dockyardd.log"
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~/")


class Failure(Exception):
    """A command ends with this message and exit status."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Session:
    """One run of the command line."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.settings = settings
        environment = os.environ
        host = settings.get("host") or environment.get("DOCKYARD_HOST") or environment.get("DOCKER_HOST") or ""
        self.config_folder = (
            settings.get("config") or environment.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
        )
        self.api = Connection(host or DEFAULT_HOST, self._tls(host))
        if not host and "no-autostart" not in settings:
            self._start_engine()

    def _tls(self, host: str) -> ssl.SSLContext | None:
        verify = self.settings.get("tlsverify") or os.environ.get("DOCKER_TLS_VERIFY")
        if not (verify or self.settings.get("tls")) or not host.startswith("tcp://"):
            return None
        import ssl

        folder = os.environ.get("DOCKER_CERT_PATH") or self.config_folder
        authority = self.settings.get("ca") or f"{folder}/ca.pem"
        context = ssl.create_default_context(cafile=authority if os.path.exists(authority) else None)
        certificate = self.settings.get("cert") or f"{folder}/cert.pem"
        if os.path.exists(certificate):
            context.load_cert_chain(certificate, self.settings.get("key") or f"{folder}/key.pem")
        if not verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def _start_engine(self) -> None:
        """Start an engine when none answers on the default socket and we may."""
        try:
            self.api.open().close()
            return
        except Unreachable:
            if os.geteuid() != 0:
                return
        import subprocess
        import time

        program = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "dockyardd")
        command = [program] if os.access(program, os.X_OK) else [sys.executable, "-m", "dockyard.daemon"]
        os.makedirs(os.path.dirname(LOG), mode=0o711, exist_ok=True)
        with open(LOG, "ab") as log:
            daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        print(f"Starting the engine (log: {LOG})", file=sys.stderr)
        deadline = time.monotonic() + START_PATIENCE
        while time.monotonic() < deadline:
            try:
                self.api.open().close()
                return
            except Unreachable:
                if daemon.poll() is not None:
                    break
                time.sleep(0.02)
        raise Failure(f"the engine did not start; see {LOG}")

    def each(self, names: list[str], work: Callable[[str], object]) -> int:
        """Do `work` for every name and print what fails; 1 when anything did."""
        failed = 0
        for name in names:
            try:
                work(name)
            except ApiError as error:
                print(f"Error response from daemon: {error}", file=sys.stderr)
                failed = 1
        return failed


def path(*parts: str, **values: object) -> str:
    """A request's path and query: each part is escaped; values that are None, False or empty are left out.

    path("/containers", name, "/stop", t=5) -> "/containers/web/stop?t=5". A list is repeated, a dict becomes JSON.
    """
    pairs = []
    for key, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            if item is True:
                pairs.append(f"{key}=1")
            elif isinstance(item, dict) and item:
                pairs.append(f"{key}={quote(dumps(item))}")
            elif item not in (None, False, "", {}):
                pairs.append(f"{key}={quote(str(item))}")
    place = "".join(quote(part) if part.startswith("/") else "/" + quote(part) for part in parts)
    return place + ("?" + "&".join(pairs) if pairs else "")


def quote(text: str) -> str:
    """Text for use in a path or query."""
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in text.encode())


def filters(values: list[str]) -> dict[str, list[str]]:
    """`--filter NAME=VALUE` as the API wants them. Raises Failure."""
    found: dict[str, list[str]] = {}
    for value in values:
        name, equals, wanted = value.partition("=")
        if not equals:
            raise Failure(f'invalid argument "{value}" for "-f, --filter" flag: invalid filter \'{value}\'', 125)
        found.setdefault(name.strip().lower(), []).append(wanted.strip())
    return found


def confirm(question: str) -> bool:
    """Ask before destroying."""
    print(f"{question}\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
