"""`build` through the graph of steps: what the flags ask for beyond the classic builder, and what it says."""

from __future__ import annotations

import os
import sys

from dockyard.cli import progress
from dockyard.cli.errors import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from dockyard.cli.usage import Flags

# what only the classic builder does: limits of its containers, and how it removes them
CLASSIC = (
    "cpu-period cpu-quota cpu-shares cpuset-cpus cpuset-mems memory memory-swap security-opt squash rm force-rm "
    "isolation compress"
).split()
OURS = ("secret", "no-cache-filter", "build-context", "explain-cache", "progress", "metadata-file")
MODES = ("auto", "tty", "plain", "rawjson", "quiet")


def wanted(flags: Flags) -> bool:
    """Whether the graph builds: not with DOCKER_BUILDKIT=0, nor with what only the classic builder does."""
    classic = [name for name in CLASSIC if flags.given(name)]
    ours = [name for name in OURS if flags.given(name)]
    off = os.environ.get("DOCKER_BUILDKIT", "").lower() in ("0", "false")
    if ours and (classic or off):
        other = f"--{classic[0]}" if classic else "DOCKER_BUILDKIT=0"
        raise Failure(f"--{ours[0]} is not for the classic builder, which {other} asks for")
    return not classic and not off


def query(flags: Flags, arguments: dict[str, str | None]) -> dict[str, object]:
    """What the request says beyond the classic one."""
    mode = _mode(flags)
    if flags.on("explain-cache"):
        arguments["DOCKYARD_EXPLAIN_CACHE"] = "1"
    import json

    contexts = {}
    for text in flags.all("build-context"):
        name, equals, value = text.partition("=")
        if not equals or not (value.startswith(("docker-image://", "http://", "https://", "git@", "git://"))):
            raise Failure(f"invalid context {text}: it is to be NAME=docker-image://IMAGE, or an address")
        contexts[name] = value
    return {
        "graph": "1",
        "raw": "1" if mode == "rawjson" else None,
        "nocachefilter": ",".join(flags.all("no-cache-filter")) or None,
        "contexts": json.dumps(contexts) if contexts else None,
    }


def _mode(flags: Flags) -> str:
    mode = flags.text("progress") or os.environ.get("BUILDKIT_PROGRESS") or "auto"
    if mode not in MODES:
        raise Failure(f'invalid progress mode "{mode}": one of {", ".join(MODES)} is wanted')
    return mode


def quiet(flags: Flags) -> bool:
    """Whether only the image's ID is to be shown."""
    return flags.on("quiet") or _mode(flags) == "quiet"


def secrets(flags: Flags) -> dict[str, str]:
    """The header with the secrets of `--secret id=NAME[,src=FILE|,env=VARIABLE]`."""
    import base64
    import json

    found: dict[str, str] = {}
    for text in flags.all("secret"):
        fields = dict(part.partition("=")[::2] for part in text.split(","))
        name = fields.get("id", "")
        if not name:
            raise Failure(f"invalid secret {text}: it needs an id")
        content: bytes | None = None
        if "env" in fields or (fields.get("type") != "file" and not _file(fields) and name in os.environ):
            content = os.environ.get(fields.get("env", name), "").encode(errors="surrogateescape")
        if content is None:
            path = _file(fields) or name
            try:
                with open(path, "rb") as file:
                    content = file.read()
            except OSError as error:
                raise Failure(f"failed to read secret {name}: {error.strerror}: {path}") from None
        found[name] = base64.b64encode(content).decode()
    if not found:
        return {}
    return {"X-Build-Secrets": base64.urlsafe_b64encode(json.dumps(found).encode()).decode()}


def _file(fields: dict[str, str]) -> str:
    return fields.get("src") or fields.get("source") or ""


def show(messages: Iterable[dict[str, Any]], flags: Flags) -> str:
    """Show how the build goes, on standard error as docker does; the image's ID. Raises Failure."""
    if _mode(flags) == "rawjson":
        return _show_raw(messages)
    silent = quiet(flags)
    kept: list[str] = []
    try:
        found = progress.show(_keeping(messages, kept), sys.stderr, quiet=silent)
    except Failure as failure:
        if silent:
            sys.stderr.write("".join(kept))
        raise Failure(f"ERROR: failed to build: failed to solve: {failure}", failure.code) from None
    return next((str(aux["ID"]) for aux in reversed(found) if "ID" in aux), "")


def _keeping(messages: Iterable[dict[str, Any]], kept: list[str]) -> Iterable[dict[str, Any]]:
    for message in messages:
        kept.append(message.get("stream", ""))
        yield message


def _show_raw(messages: Iterable[dict[str, Any]]) -> str:
    """Every event as a line of JSON."""
    import json

    identifier = ""
    for message in messages:
        if message.get("id") == "dockyard.build.event":
            print(json.dumps(message["aux"]), file=sys.stderr, flush=True)
        elif message.get("aux"):
            identifier = str(message["aux"].get("ID", ""))
        elif message.get("error"):
            raise Failure(f"ERROR: failed to build: failed to solve: {message['error']}")
    return identifier


def write_metadata(flags: Flags, identifier: str) -> None:
    """`--metadata-file`: what came of the build, as buildx writes it."""
    if not flags.given("metadata-file"):
        return
    import json

    told = {"containerimage.config.digest": identifier, "containerimage.digest": identifier}
    if flags.all("tag"):
        told["image.name"] = ",".join(flags.all("tag"))
    with open(flags.text("metadata-file"), "w", encoding="utf-8") as file:
        json.dump(told, file, indent=2)
