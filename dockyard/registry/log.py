"""What is written to standard output: logrus' lines, a combined format's for each request, or JSON for both."""

import logging
import sys
import time
from typing import Any

import msgspec

from dockyard.errors import InvalidParameter
from dockyard.registry.call import Call
from dockyard.registry.settings import Log

_LEVELS = {"error": logging.ERROR, "warn": logging.WARNING, "warning": logging.WARNING, "info": logging.INFO}
_NAMES = {"WARNING": "warning", "CRITICAL": "fatal"}
FORMATTERS = ("text", "json", "logstash")

access_log = logging.getLogger("dockyard.registry.access")


class Text(logging.Formatter):
    """time="…" level=info msg="…" service=registry"""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__()
        self._fields = "".join(f" {name}={_quoted(value)}" for name, value in sorted(fields.items()))

    def format(self, record: logging.LogRecord) -> str:
        if record.name == access_log.name:
            return record.getMessage()  # a line of its own form
        level = _NAMES.get(record.levelname, record.levelname.lower())
        text = super().format(record)  # with the traceback, if there is one
        return f'time="{_time(record)}" level={level} msg={_quoted(text)}{self._fields}'


class Json(logging.Formatter):
    """One object a line; `names` is how level, message and time are called."""

    def __init__(self, fields: dict[str, str], names: tuple[str, str, str], more: dict[str, Any]) -> None:
        super().__init__()
        self._fields = {**fields, **more}
        self._names = names

    def format(self, record: logging.LogRecord) -> str:
        level, message, moment = self._names
        values: dict[str, Any] = dict(self._fields)
        values |= getattr(record, "fields", {})
        values[level] = _NAMES.get(record.levelname, record.levelname.lower())
        values[message] = "response completed" if record.name == access_log.name else super().format(record)
        values[moment] = _time(record)
        return msgspec.json.encode(values).decode()


def set_up(settings: Log, old_level: str = "") -> None:
    """Write to standard output as the settings say. Raises InvalidParameter."""
    level = old_level or settings.level
    if level not in (*_LEVELS, "debug"):
        raise InvalidParameter(f"invalid loglevel {level} Must be one of [error, warn, info, debug]")
    if settings.formatter not in FORMATTERS:
        raise InvalidParameter(f"unsupported logging formatter: {settings.formatter!r}")
    handler = logging.StreamHandler(sys.stdout)
    if settings.formatter == "text":
        handler.setFormatter(Text(settings.fields))
    elif settings.formatter == "json":
        handler.setFormatter(Json(settings.fields, ("level", "msg", "time"), {}))
    else:
        handler.setFormatter(Json(settings.fields, ("level", "message", "@timestamp"), {"@version": "1"}))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS.get(level, logging.DEBUG))
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    access_log.disabled = settings.accesslog.disabled
    access_log.setLevel(logging.INFO)


def note(call: Call, status: int, written: int, kind: str) -> None:
    """Write the line of a request that has been answered with `written` bytes of `kind`."""
    if access_log.disabled:
        return
    request = call.request
    agent = request.headers.get("User-Agent")
    uri = request.path + (f"?{request.query}" if request.query else "")
    host = call.peer.rpartition(":")[0] or "-"
    moment = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
    version = f"HTTP/{request.version[0]}.{request.version[1]}"
    fields = {
        "http.request.host": request.headers.get("Host"),
        "http.request.id": call.id,
        "http.request.method": request.method,
        "http.request.remoteaddr": call.peer,
        "http.request.uri": uri,
        "http.request.useragent": agent,
        "http.response.contenttype": kind,
        "http.response.duration": round(time.monotonic() - call.began, 6),
        "http.response.status": status,
        "http.response.written": written,
    }
    if call.actor.name:
        fields["auth.user.name"] = call.actor.name
    access_log.info(
        '%s - %s [%s] "%s %s %s" %d %d "%s" "%s"',
        host,
        _plain(call.actor.name) or "-",
        moment,
        request.method,
        _plain(uri),
        version,
        status,
        written,
        _plain(request.headers.get("Referer")),
        _plain(agent),
        extra={"fields": fields},
    )


def _time(record: logging.LogRecord) -> str:
    seconds = int(record.created)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(record.msecs):03d}Z"


def _quoted(text: str) -> str:
    """A value of a line in logrus' form."""
    if text and all(one.isalnum() or one in "-._/@^+" for one in text):
        return text
    return msgspec.json.encode(text).decode()


def _plain(text: str) -> str:
    """What a client has said, without what would look like the end of a field or a line."""
    return text.replace("\\", "\\\\").replace('"', '\\"').encode("unicode_escape", "replace").decode() if text else ""
