"""The daemon's sockets: unix://, tcp:// with or without TLS, and fd:// handed over by systemd."""

import contextlib
import errno
import grp
import logging
import os
import socket
import ssl
import stat
from ipaddress import ip_address

from dockyard.config import Config
from dockyard.errors import InvalidParameter, SystemFailure

log = logging.getLogger("dockyard.daemon.listeners")

DEFAULT_SOCKET = "/run/dockyard/docker.sock"
FIRST_PASSED_FD = 3  # sd_listen_fds(3)


def open_listeners(config: Config) -> list[tuple[str, socket.socket, ssl.SSLContext | None]]:
    """Open every address of `config`: (address, listening socket, TLS context or None).

    Raises InvalidParameter for a malformed or unsafe address, SystemFailure when one can't be opened; then none
    is left open.
    """
    opened: list[tuple[str, socket.socket, ssl.SSLContext | None]] = []
    try:
        for address in config.listeners:
            scheme, _, place = address.partition("://")
            if scheme == "unix":
                opened.append((address, _unix(place or DEFAULT_SOCKET, config.group), None))
            elif scheme == "tcp":
                opened.append((address, *_tcp(address, place, config)))
            else:
                opened.extend((address, listener, None) for listener in _passed())
    except BaseException:
        for address, listener, _ in opened:
            close(address, listener)
        raise
    return opened


def close(address: str, listener: socket.socket) -> None:
    """Listen on `address` no more."""
    listener.close()
    scheme, _, path = address.partition("://")
    if scheme == "unix":
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path or DEFAULT_SOCKET)


def _unix(path: str, group: str) -> socket.socket:
    """A socket at `path` that root and `group` may use; one that a dead daemon left there is replaced."""
    if os.path.lexists(path):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise SystemFailure(f"failed to listen on unix://{path}: a file that is no socket is in the way")
        if _answers(path):
            raise SystemFailure(f"failed to listen on unix://{path}: another daemon is listening there")
        os.unlink(path)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # No one may connect between bind and chmod.
    previous = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise SystemFailure(f"failed to listen on unix://{path}: {error.strerror}") from error
    finally:
        os.umask(previous)
    gid = 0
    try:
        gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        if group != "docker":
            listener.close()
            os.unlink(path)
            raise SystemFailure(f"failed to listen on unix://{path}: group {group} not found") from None
        log.warning("could not change group %s to docker: group docker not found", path)
    os.chown(path, 0, gid)
    os.chmod(path, 0o660)
    listener.listen(1024)
    return listener


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _tcp(address: str, place: str, config: Config) -> tuple[socket.socket, ssl.SSLContext | None]:
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, ""
    host = host.strip("[]") or "127.0.0.1"
    secure = bool(config.tls or config.tlsverify)
    if not port:
        port = "2376" if secure else "2375"
    if not port.isdigit() or int(port) > 65535:
        raise InvalidParameter(f"invalid bind address ({address}): invalid port")
    # containers reach every address of the host but its loopback ones
    if not config.tlsverify and not _is_loopback(host) and config.tls is not False and config.tlsverify is not False:
        missing, allowed = ("a client's certificate", "--tlsverify=false") if secure else ("TLS", "--tls=false")
        raise InvalidParameter(
            f"refusing to listen on {address} without {missing}: whoever reaches it is root on this host; "
            f"use --tlsverify, or say {allowed} to allow it"
        )
    context = tls_context(config) if secure else None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, int(port)))
    except OSError as error:
        listener.close()
        reason = "address already in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise SystemFailure(f"failed to listen on {address}: {reason}") from error
    listener.listen(1024)
    if context is None and not _is_loopback(host):
        log.warning("[DEPRECATION NOTICE]: API is accessible on %s without encryption: this is root access", address)
    elif not config.tlsverify:
        log.warning("API is accessible on %s without a client's certificate: this is root access", address)
    return listener, context


def _is_loopback(host: str) -> bool:
    """Whether nobody but this host reaches `host`: a name may mean anybody, however it begins."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def tls_context(config: Config) -> ssl.SSLContext:
    """The server's TLS set-up: own certificate, and with --tlsverify clients must show one signed by the CA.

    Raises SystemFailure when a file is missing or unusable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    certificate, key, authority = (
        os.path.expanduser(path) for path in (config.tlscert, config.tlskey, config.tlscacert)
    )
    try:
        context.load_cert_chain(certificate, key)
        if config.tlsverify:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise SystemFailure(f"could not load TLS files {certificate}, {key}, {authority}: {error}") from error
    return context


def _passed() -> list[socket.socket]:
    """The sockets systemd opened for us (sd_listen_fds(3))."""
    count = int(os.environ.get("LISTEN_FDS", "0"))
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count:
        raise SystemFailure("no sockets found via socket activation: make sure the service was started by systemd")
    os.environ.pop("LISTEN_PID")
    os.environ.pop("LISTEN_FDS")
    sockets = []
    for fd in range(FIRST_PASSED_FD, FIRST_PASSED_FD + count):
        os.set_inheritable(fd, False)
        sockets.append(socket.socket(fileno=fd))
    return sockets


def notify(state: str) -> None:
    """Tell the service manager, if there is one, e.g. "READY=1" (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        try:
            manager.sendto(state.encode(), address)
        except OSError as error:
            log.warning("cannot notify the service manager: %s", error)
