"""Log drivers and their options: what is accepted, in Docker's words, and what becomes of a container's output.

Whatever the driver, the shim writes one file in the container's folder, bounded and rotated, from which `logs` reads;
for a driver that sends elsewhere another process follows that file (shim/log_forwarder.py).
"""

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from dockyard.engine.containers.container import Container
from dockyard.engine.containers.logs import tags as log_tags
from dockyard.errors import InvalidParameter

# Logs are bounded unless asked otherwise: a container that talks must not fill the disk.
DEFAULT_SIZE, DEFAULT_FILES = 100 << 20, 3
LOCAL_SIZE, LOCAL_FILES = 20_000_000, 5  # moby daemon/logger/local and its cache for drivers that can't read

COMMON = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
CACHE = frozenset({"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"})
ROTATION = frozenset({"max-size", "max-file", "compress"})
OPTIONS: dict[str, frozenset[str]] = {
    "fluentd": COMMON
    | {
        f"fluentd-{name}"
        for name in (
            "address", "async", "async-connect", "async-reconnect-interval", "buffer-limit", "max-retries",
            "request-ack", "retry-wait", "sub-second-precision", "write-timeout", "read-timeout",
        )
    },
    "gelf": COMMON
    | {
        f"gelf-{name}"
        for name in ("address", "compression-level", "compression-type", "tcp-max-reconnect", "tcp-reconnect-delay")
    },
    "journald": COMMON,
    "json-file": COMMON | ROTATION,
    "local": COMMON | ROTATION,
    "none": frozenset(),
    "syslog": COMMON
    | {
        f"syslog-{name}"
        for name in ("address", "facility", "tls-ca-cert", "tls-cert", "tls-key", "tls-skip-verify", "format")
    },
}  # fmt: skip
LOG_DRIVERS = tuple(sorted(OPTIONS))
REMOTE = frozenset({"fluentd", "gelf", "journald", "syslog"})

FACILITIES = (
    "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp _ _ _ _ "
    "local0 local1 local2 local3 local4 local5 local6 local7"
).split()
SYSLOG_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")


@dataclass(frozen=True, slots=True)
class LogFile:
    """The file that the shim writes: its path in the container's folder, when it is rotated, if it may be read."""

    path: str
    max_size: int
    max_file: int
    compress: bool
    readable: bool


def check(driver: str, options: Mapping[str, str]) -> None:
    """Raises InvalidParameter for a driver or an option that is not there, or a value that can't be."""
    if driver not in OPTIONS:
        raise InvalidParameter(f'error looking up logging plugin {driver}: plugin "{driver}" not found')
    if driver == "none":
        return
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidParameter("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        _number_with_unit(options["max-buffer-size"], 1024, "error parsing option max-buffer-size: ")
    for name in options:
        if name not in OPTIONS[driver] and name not in CACHE and name not in ("mode", "max-buffer-size"):
            quoted = f'"{name}"' if driver == "gelf" else f"'{name}'"
            raise InvalidParameter(f"unknown log opt {quoted} for {driver} log driver")
    for name in ("labels-regex", "env-regex"):
        try:
            re.compile(options.get(name, ""))
        except re.error as error:
            raise InvalidParameter(f"invalid regular expression in log opt '{name}': {error}") from None
    log_file(driver, options)
    if driver in CHECKS:
        CHECKS[driver](options)


def log_file(driver: str, options: Mapping[str, str]) -> LogFile | None:
    """The file of a container with that driver, None for the driver none. Raises InvalidParameter."""
    if driver == "none":
        return None
    if driver in REMOTE:
        own = {name.removeprefix("cache-"): value for name, value in options.items() if name in CACHE}
        disabled = _truth("cache-disabled", own.get("disabled", "false"))
        size, files, _ = _rotation(own, LOCAL_SIZE, LOCAL_FILES, compress=False)
        # a rotated file that has not been sent yet must stay as it is
        return LogFile("container-cached.log", size, files, compress=False, readable=not disabled)
    if driver == "local":
        size, files, compress = _rotation(options, LOCAL_SIZE, LOCAL_FILES, compress=True)
        return LogFile("local-logs/container.log", size, files, compress, readable=True)
    size, files, compress = _rotation(options, DEFAULT_SIZE, DEFAULT_FILES, compress=False)
    return LogFile("", size, files, compress, readable=True)


def _rotation(options: Mapping[str, str], size: int, files: int, *, compress: bool) -> tuple[int, int, bool]:
    if "max-size" in options:
        files = files if "max-file" in options or compress else 1
        size = -1 if options["max-size"] == "-1" else _number_with_unit(options["max-size"], 1000, "")
        if size == 0:
            raise InvalidParameter("max-size must be a positive number")
    if "max-file" in options:
        text = options["max-file"]
        if not text.removeprefix("-").isdecimal():
            raise InvalidParameter(f'invalid value for max-file: strconv.Atoi: parsing "{text}": invalid syntax')
        files = int(text)
        if files < 1:
            raise InvalidParameter("max-file cannot be less than 1")
        compress = compress and files > 1
    if "compress" in options:
        compress = _truth("compress", options["compress"])
        if compress and files < 2:
            raise InvalidParameter("compress cannot be true when max-file is less than 2 or max-size is not set")
    return size, files, compress


def _number_with_unit(text: str, base: int, prefix: str) -> int:
    """10m, 512k, 1.5g as docker/go-units reads them."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?", text.lower())
    if found is None:
        raise InvalidParameter(f"{prefix}invalid size: '{text}'")
    return int(float(found[1]) * base ** " kmgtp".index(found[2] or " "))


def _truth(name: str, text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidParameter(f'invalid boolean value for {name}: strconv.ParseBool: parsing "{text}": invalid syntax')


# -- the drivers' own options


def _check_syslog(options: Mapping[str, str]) -> None:
    address = options.get("syslog-address", "")
    if address and urlsplit(address).scheme not in ("udp", "tcp", "tcp+tls", "unix", "unixgram"):
        raise InvalidParameter(f"unsupported scheme: '{urlsplit(address).scheme}'")
    _check_port(address)
    facility = options.get("syslog-facility", "daemon")
    if facility not in FACILITIES and not (facility.isdecimal() and int(facility) < 24):
        raise InvalidParameter("invalid syslog facility")
    if options.get("syslog-format", "") not in SYSLOG_FORMATS:
        raise InvalidParameter("Invalid syslog format")


def _check_fluentd(options: Mapping[str, str]) -> None:
    address = options.get("fluentd-address", "")
    if "://" in address:
        parts = urlsplit(address)
        if parts.scheme not in ("tcp", "tls", "unix"):
            raise InvalidParameter(f"invalid fluentd-address ({address}): unsupported scheme: '{parts.scheme}'")
        if parts.scheme == "unix" and not parts.path:
            raise InvalidParameter(f"invalid fluentd-address ({address}): path is empty")
        if parts.scheme != "unix" and parts.path:
            raise InvalidParameter(f"invalid fluentd-address ({address}): should not contain a path element")
    _check_port(address if "://" in address else f"tcp://{address}")
    for name in ("fluentd-async", "fluentd-request-ack", "fluentd-sub-second-precision"):
        _truth(name, options.get(name, "false"))
    if "fluentd-buffer-limit" in options:
        _number_with_unit(options["fluentd-buffer-limit"], 1024, "")
    retries = options.get("fluentd-max-retries", "0")
    if not retries.isdecimal():
        raise InvalidParameter(f'strconv.ParseUint: parsing "{retries}": invalid syntax')


def _check_gelf(options: Mapping[str, str]) -> None:
    address = options.get("gelf-address", "")
    if not address:
        raise InvalidParameter("gelf-address is a required parameter")
    parts = urlsplit(address)
    if parts.scheme not in ("udp", "tcp"):
        raise InvalidParameter("gelf: endpoint needs to be TCP or UDP")
    _check_port(address)
    if not parts.hostname or parts.port is None:
        raise InvalidParameter("gelf: please provide gelf-address as proto://host:port")
    for name, values in (
        ("gelf-compression-level", [str(level) for level in range(-1, 10)]),
        ("gelf-compression-type", ["gzip", "zlib", "none"]),
    ):
        if name in options:
            if parts.scheme != "udp":
                raise InvalidParameter("compression is only supported on UDP")
            if options[name] not in values:
                raise InvalidParameter(f'unknown value "{options[name]}" for log opt "{name}" for gelf log driver')
    for name in ("gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"):
        if name in options:
            if parts.scheme != "tcp":
                raise InvalidParameter(f'"{name}" is only valid for TCP')
            if not options[name].isdecimal():
                raise InvalidParameter(f'"{name}" must be a positive integer')


def _check_port(address: str) -> None:
    try:
        _ = urlsplit(address).port
    except ValueError as error:
        raise InvalidParameter(f"invalid address {address}: {error}") from None


CHECKS: dict[str, Callable[[Mapping[str, str]], None]] = {
    "fluentd": _check_fluentd,
    "gelf": _check_gelf,
    "syslog": _check_syslog,
}


# -- what is told of the container


def attributes(container: Container) -> dict[str, str]:
    """The labels and variables that the options select, and for a file the tag, if one is asked for."""
    options = container.host_config.log_config.config or {}
    labels = container.config.labels or {}
    pairs = (entry.partition("=") for entry in container.config.env or [])
    variables = {key: value for key, equals, value in pairs if equals}
    found: dict[str, str] = {}
    for name, source in (("labels", labels), ("env", variables)):
        for key in options.get(name, "").split(","):
            if key in source:
                found[key] = source[key]
        pattern = options.get(f"{name}-regex", "")
        if pattern:
            found |= {key: value for key, value in source.items() if re.search(pattern, key)}
    if options.get("tag") and container.host_config.log_config.type not in REMOTE:
        found["tag"] = log_tags.render(options["tag"], container, found)
    return found


def blocks(driver: str, options: Mapping[str, str]) -> bool:
    """Whether a container waits for its log server: mode blocking, the default, of drivers that send elsewhere."""
    return driver in REMOTE and options.get("mode", "") != "non-blocking"


def sent_note(folder: str) -> str:
    """Where the forwarder notes how far it has sent the log of the container of that folder."""
    return f"{folder}/forwarded.json"


def is_sent(container: Container, folder: str) -> bool:
    """Whether nothing is left to send of the log of a container that has ended."""
    try:
        log = os.stat(container.record.log_path)
        with open(sent_note(folder), "rb") as note:
            return (log.st_ino, log.st_size) == msgspec.json.decode(note.read(), type=tuple[int, int])
    except FileNotFoundError:
        return not os.path.exists(container.record.log_path)
    except (OSError, msgspec.MsgspecError):
        return False


def forwarding(container: Container, folder: str) -> dict[str, object] | None:
    """What the forwarder is told of a container whose driver sends elsewhere; None for any other."""
    log = container.host_config.log_config
    if log.type not in REMOTE:
        return None
    options = log.config or {}
    selected = attributes(container)
    return {
        "id": container.id,
        "path": container.record.log_path,
        "checkpoint": sent_note(folder),
        "driver": log.type,
        "options": options,
        "buffer": _number_with_unit(options.get("max-buffer-size", "1m"), 1024, "")
        if options.get("mode") == "non-blocking"
        else 0,
        "identity": {
            "id": container.id,
            "name": container.name,
            "image_id": container.record.image_id,
            "image_name": container.config.image,
            "command": " ".join(container.argv),
            "created": container.record.created,
            "tag": log_tags.render(options.get("tag", ""), container, selected),
            "host": socket.gethostname(),
            "attributes": selected,
        },
    }
