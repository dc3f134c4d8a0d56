"""Which engine a command talks to, when it is not the one on the default socket: addresses, contexts, TLS."""

from __future__ import annotations

import os

from dockyard.cli.contexts import ContextStore
from dockyard.cli.errors import Failure
from dockyard.client.http import DEFAULT_HOST

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

    from dockyard.cli.usage import Flags

    Endpoint = tuple[str, ssl.SSLContext | None]

DEFAULT_TCP = ("localhost", "2375")


def of_context(name: str, config_folder: str) -> Endpoint:
    """Where a context leads. Raises Failure."""
    store = ContextStore(config_folder, DEFAULT_HOST)
    try:
        meta = store.get(name)
    except Failure as failure:
        raise Failure(f"Failed to initialize: unable to resolve docker endpoint: {failure}") from None
    endpoint = meta["Endpoints"].get("docker") or {}
    host = parse(endpoint.get("Host") or DEFAULT_HOST)
    files = f"{store.tls_path(name)}/docker"
    if not host.startswith("tcp://") or not (os.path.isdir(files) or endpoint.get("SkipTLSVerify")):
        return host, None
    return host, _tls_context(
        f"{files}/ca.pem", f"{files}/cert.pem", f"{files}/key.pem", verify=not endpoint.get("SkipTLSVerify")
    )


def of_address(text: str, flags: Flags, config_folder: str) -> Endpoint:
    """Where `-H` or DOCKER_HOST leads. Raises Failure."""
    try:
        host = parse(text)
    except Failure as failure:
        raise Failure(f"Failed to initialize: unable to resolve docker endpoint: {failure}") from None
    return host, _tls(host, flags, config_folder)


def wants_tls(flags: Flags) -> bool:
    """Whether TLS was asked for; --tlsverify=false is a way to ask for it, without a check of the engine's name."""
    return flags.on("tls") or flags.given("tlsverify") or bool(os.environ.get("DOCKER_TLS_VERIFY"))


def _tls(host: str, flags: Flags, config_folder: str) -> ssl.SSLContext | None:
    if not wants_tls(flags):
        return None
    verify = flags.on("tlsverify") or (not flags.given("tlsverify") and bool(os.environ.get("DOCKER_TLS_VERIFY")))
    folder = os.environ.get("DOCKER_CERT_PATH") or config_folder
    authority = flags.text("tlscacert", f"{folder}/ca.pem")
    certificate = flags.text("tlscert", f"{folder}/cert.pem")
    key = flags.text("tlskey", f"{folder}/key.pem")
    for name, path in (("tlscacert", authority), ("tlscert", certificate), ("tlskey", key)):
        needed = (verify or flags.given("tlsverify")) and name == "tlscacert"
        if (needed or flags.given(name)) and not os.path.exists(path):
            why = f"open {path}: no such file or directory"
            raise Failure(f"Failed to initialize: unable to resolve docker endpoint: {why}")
    return _tls_context(authority, certificate, key, verify=verify) if host.startswith("tcp://") else None


def _tls_context(authority: str, certificate: str, key: str, *, verify: bool) -> ssl.SSLContext:
    import ssl

    try:
        context = ssl.create_default_context(cafile=authority if os.path.exists(authority) else None)
        if os.path.exists(certificate) and os.path.exists(key):
            context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise Failure(f"Failed to initialize: unable to resolve docker endpoint: {error}") from None
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def parse(text: str) -> str:
    """An address in full: `host` is tcp://host:2375, `unix://` the default socket. Raises Failure."""
    text = text.strip()
    scheme, separator, place = text.partition("://")
    if not separator:
        scheme, place = "tcp", text
    if "://" in place:
        raise Failure(f"invalid proto, expected {scheme}: {place}")
    if scheme == "unix":
        return f"unix://{place}" if place else DEFAULT_HOST
    if scheme in ("fd", "ssh"):
        return text
    if scheme != "tcp":
        raise Failure(f"invalid bind address format: {text}")
    authority, slash, path = place.partition("/")
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        host, port = authority, ""
    if port and not port.isdigit():
        raise Failure(f"invalid bind address format: {place}")
    host = host or DEFAULT_TCP[0]
    if ":" in host and not host.startswith("["):
        raise Failure(f"invalid bind address format: {place}")
    return f"tcp://{host}:{port or DEFAULT_TCP[1]}{slash}{path}"
