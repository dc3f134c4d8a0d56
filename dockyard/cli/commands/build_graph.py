"""`build` through the graph of steps: what the flags ask for, the engine told of it, and what is shown meanwhile."""

from __future__ import annotations

import os
import re
import sys

from dockyard.cli import values
from dockyard.cli.errors import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dockyard.buildx.answers import Question
    from dockyard.buildx.progress import Display, Trace
    from dockyard.buildx.request import BuildRequest, Output
    from dockyard.buildx.several import TargetFailed
    from dockyard.buildx.solve import BuildFailed, Solved
    from dockyard.cli.session import Session
    from dockyard.cli.usage import Flags

# what only the classic builder does: limits of its containers, and how it removes them
CLASSIC = (
    "cpu-period cpu-quota cpu-shares cpuset-cpus cpuset-mems memory memory-swap security-opt squash rm force-rm "
    "isolation compress"
).split()
OURS = (
    "secret ssh no-cache-filter build-context explain-cache progress metadata-file output load push allow annotation "
    "attest provenance sbom cache-to call check debug"
).split()
MODES = ("auto", "tty", "plain", "rawjson", "quiet")
ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
CHUNK = 1 << 18


def wanted(flags: Flags) -> bool:
    """Whether the graph builds: not with DOCKER_BUILDKIT=0, nor with what only the classic builder does."""
    classic = [name for name in CLASSIC if flags.given(name)]
    ours = [name for name in OURS if flags.given(name)]
    off = os.environ.get("DOCKER_BUILDKIT", "").lower() in ("0", "false")
    if ours and (classic or off):
        other = f"--{classic[0]}" if classic else "DOCKER_BUILDKIT=0"
        raise Failure(f"--{ours[0]} is not for the classic builder, which {other} asks for")
    return not classic and not off


def run(session: Session, flags: Flags) -> int:
    """Build as the flags say. Raises Failure."""
    import tempfile

    from dockyard.buildx.request import InvalidRequest

    mode = mode_of(flags)
    with tempfile.TemporaryDirectory(prefix="dockyard-build") as folder:
        try:
            question = _question(flags)
            request = _request(session, flags, folder, question)
            solved = _solve(session, flags, request, mode if question is None else _asking(flags, mode))
        except InvalidRequest as error:
            raise Failure(f"ERROR: failed to build: {error}") from None
    if question is not None:
        return _tell(question, solved)
    _write_results(flags, solved)
    if mode == "quiet":
        print(solved.image)
    return 0


def mode_of(flags: Flags) -> str:
    """How it is shown."""
    mode = flags.text("progress") or os.environ.get("BUILDKIT_PROGRESS") or "auto"
    if mode not in MODES:
        raise Failure(f'invalid progress mode "{mode}": one of {", ".join(MODES)} is wanted')
    return "quiet" if flags.on("quiet") else mode


def _asking(flags: Flags, mode: str) -> str:
    """Where nothing is built there is nothing to be seen, but what was asked for."""
    return mode if flags.given("progress") else "quiet"


def _question(flags: Flags) -> Question | None:
    from dockyard.buildx.answers import Question

    text = "check" if flags.on("check") else flags.text("call")
    return None if text in ("", "build") else Question(text)


def _tell(question: Question, solved: Solved) -> int:
    text, code, error = question.text(solved.answers)
    sys.stdout.write(text)
    sys.stdout.flush()
    if error and not question.json:
        raise Failure(f"ERROR: {error.rstrip()}")
    return code or int(bool(error))


# -- what is asked for


def _request(session: Session, flags: Flags, folder: str, question: Question | None) -> BuildRequest:
    from dockyard.buildx import request as asked

    made = asked.BuildRequest(secrets=flags.all("secret"), ssh=[part for text in flags.all("ssh") for part in [text]])
    options = made.options
    _arguments(session, flags, options)
    for name, value in values.pairs(flags.all("label")).items():
        options[f"label:{name}"] = value
    _options(flags, options)
    options.update(asked.attestations(flags.all("attest"), flags.text("provenance"), flags.text("sbom")))
    asked.contexts(made, _named_contexts(flags))
    made.entitlements = [word for text in flags.all("allow") for word in text.split(",")]
    if options.get("force-network-mode") == "host":
        made.entitlements.append("network.host")
    made.cache_imports = asked.caches(_entries(flags.all("cache-from")))
    made.cache_exports = asked.caches(flags.all("cache-to"))
    if question is None:
        annotations = asked.annotation_attributes(flags.all("annotation"))
        made.outputs = outputs_of(
            flags.all("output"), flags.all("tag"), annotations, push=flags.on("push"), load=flags.on("load")
        )
    if question is not None:
        options["requestid"] = question.request_id
    _context(flags, made, folder)
    return made


def add_proxies(session: Session, options: dict[str, str]) -> None:
    """The proxies that config.json has for this engine, as arguments."""
    from dockyard.client.config_file import proxies

    if session.config.get("proxies"):
        host = session.api.host
        options.update((f"build-arg:{name}", value) for name, value in proxies(session.config, host).items())


def _arguments(session: Session, flags: Flags, options: dict[str, str]) -> None:
    add_proxies(session, options)
    for text in flags.all("build-arg"):
        name, equals, value = text.partition("=")
        if equals or name in os.environ:
            options[f"build-arg:{name}"] = value if equals else os.environ[name]
    if flags.on("explain-cache"):
        options["build-arg:DOCKYARD_EXPLAIN_CACHE"] = "1"
    if "SOURCE_DATE_EPOCH" in os.environ:
        options.setdefault("build-arg:SOURCE_DATE_EPOCH", os.environ["SOURCE_DATE_EPOCH"])


def _options(flags: Flags, options: dict[str, str]) -> None:
    if flags.on("no-cache"):
        options["no-cache"] = ""
    elif flags.all("no-cache-filter"):
        options["no-cache"] = ",".join(flags.all("no-cache-filter"))
    network = flags.text("network")
    platforms = flags.text("platform") or os.environ.get("DOCKER_DEFAULT_PLATFORM", "")
    ulimits = [values.ulimit(text) for text in flags.all("ulimit")]
    try:
        shm_size = str(values.size(flags.text("shm-size"))) if flags.given("shm-size") else ""
    except ValueError as error:
        raise flags.invalid("shm-size", flags.text("shm-size"), str(error)) from None
    for name, text in (
        ("target", flags.text("target")),
        ("platform", platforms),
        ("force-network-mode", network if network != "default" else ""),
        ("cgroup-parent", flags.text("cgroup-parent")),
        ("add-hosts", ",".join(re.sub("[:=]", "=", host, count=1) for host in flags.all("add-host"))),
        ("shm-size", shm_size),
        ("ulimit", ",".join(f"{one['Name']}={one['Soft']}:{one['Hard']}" for one in ulimits)),
        ("image-resolve-mode", "pull" if flags.on("pull") else ""),
    ):
        if text:
            options[name] = text


def _named_contexts(flags: Flags) -> dict[str, str]:
    found = {}
    for text in flags.all("build-context"):
        name, equals, value = text.partition("=")
        if not equals:
            raise Failure(f"invalid context value: {text}, expected key=value")
        found[name] = value
    return found


def _entries(parts: list[str]) -> list[str]:
    """Entries whose commas have parted them (docker's flag is a list of words, buildx's one of entries)."""
    found: list[dict[str, str]] = []
    for part in parts:
        name, equals, _ = part.partition("=")
        if not equals or not found or name in found[-1] or "" in found[-1]:
            found.append({})
        found[-1][name if equals else ""] = part
    return [",".join(one.values()) for one in found]


def outputs_of(
    texts: list[str], tags: list[str], annotations: dict[str, str], *, push: bool, load: bool
) -> list[Output]:
    """Outputs as the engine is asked for them: an image of its own when there is no other. Raises InvalidRequest."""
    from dockyard.buildx.request import InvalidRequest, Output, outputs

    found = outputs(texts)
    if push:
        images = [output for output in found if output.kind in ("image", "moby")]
        if not images:
            images = [Output("image")]
            found += images
        for output in images:
            output.attributes["push"] = "true"
    if load and not any(output.kind == "moby" for output in found):
        found.append(Output("moby"))
    found = found or [Output("moby")]
    for output in found:
        if output.kind == "image":
            output.kind = "moby"  # as the engine that keeps the images calls it
        if output.kind in ("moby", "oci", "docker"):
            if tags:
                output.attributes.setdefault("name", ",".join(tags))
            output.attributes.update(annotations)
        if output.destination == "-" and sys.stdout.isatty():
            raise InvalidRequest("dest file is required for an archive: refusing to write it to a terminal")
    return found


def _context(flags: Flags, request: BuildRequest, folder: str) -> None:
    """Where the files are and the Dockerfile is; `folder`: a directory of ours, for what comes in otherwise."""
    source, dockerfile = flags.arguments[0], flags.text("file")
    options, directories = request.options, request.directories
    if source == "-" and dockerfile == "-":
        raise Failure("ERROR: failed to build: invalid argument: can't use stdin for both build context and dockerfile")
    from dockyard.dockerfile.git_source import REMOTE

    if source.startswith(REMOTE) and not os.path.isdir(source):
        options["context"] = source
        if dockerfile and dockerfile != "-":
            options["filename"] = dockerfile
    elif source == "-":
        head = sys.stdin.buffer.read(512)
        if head.startswith(ARCHIVES) or head[257:262] == b"ustar":
            request.upload = _pieces(head)
            if dockerfile:
                options["filename"] = dockerfile
            return
        _keep(os.path.join(folder, "Dockerfile"), head + sys.stdin.buffer.read())
        os.mkdir(os.path.join(folder, "empty"))
        directories.update(context=os.path.join(folder, "empty"), dockerfile=folder)
        return
    else:
        check_directory(source)
        directories["context"] = source
        place = dockerfile if dockerfile not in ("", "-") else os.path.join(source, "Dockerfile")
        directories["dockerfile"] = os.path.dirname(place) or "."
        options["filename"] = os.path.basename(place)
        if not os.path.isdir(directories["dockerfile"]):
            raise Failure(
                f"ERROR: failed to build: resolve : lstat {directories['dockerfile']}: no such file or directory"
            )
    if dockerfile == "-":
        _keep(os.path.join(folder, "Dockerfile"), sys.stdin.buffer.read())
        directories["dockerfile"] = folder
        options["filename"] = "Dockerfile"
        options["dockerfilekey"] = "dockerfile"


def check_directory(source: str) -> None:
    """A context must be a directory. Raises Failure."""
    if not os.path.isdir(source):
        if not os.path.exists(source):
            raise Failure(f'ERROR: failed to build: unable to prepare context: path "{source}" not found')
        raise Failure(f'ERROR: failed to build: unable to prepare context: path "{source}" is not a directory')


def _keep(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def _pieces(head: bytes) -> Iterator[bytes]:
    yield head
    yield from iter(lambda: sys.stdin.buffer.read(CHUNK), b"")


# -- the build


def _solve(session: Session, flags: Flags, request: BuildRequest, mode: str) -> Solved:
    return solve_all(session, {"": request}, {}, mode, debug=debugged(flags))[""]


def debugged(flags: Flags) -> bool:
    """Whether a step that fails is to be looked into. Raises Failure where that can't be."""
    if flags.on("debug") and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Failure("ERROR: --debug opens a shell where a step fails, and needs a terminal")
    return flags.on("debug")


def solve_all(
    session: Session,
    requests: dict[str, BuildRequest],
    links: dict[str, dict[str, str]],
    mode: str,
    *,
    debug: bool = False,
) -> dict[str, Solved]:
    """Build side by side, and show it; `links`: {build: {context: the build whose result it is}}.

    `debug`: a step that fails leaves a shell in its container. Raises Failure.
    """
    import asyncio

    from dockyard.buildx.progress import Trace
    from dockyard.buildx.several import TargetFailed, solve_several
    from dockyard.buildx.solve import BuildFailed

    display, trace = display_of(session, mode), Trace()

    def show(response: object) -> None:
        trace.take(response)  # type: ignore[arg-type]  # a StatusResponse, which is not imported before it must be
        display.show(response)  # type: ignore[arg-type]

    async def work() -> dict[str, Solved]:
        more = {}
        if debug:
            from dockyard.buildx.debugger import Debugger

            more = Debugger(display).methods
        return await solve_several(
            session.api, requests, links, config_folder=session.config_folder, show=show, more=more
        )

    try:
        solved = asyncio.run(work())
    except (BuildFailed, TargetFailed) as error:
        display.end()
        raise failure(error, trace, mode) from None
    except BaseException:
        display.end()
        raise
    display.end()
    if mode in ("auto", "tty", "plain"):
        sys.stderr.write(warnings(trace, all_of_them=session.settings.on("debug")))
    return solved


def display_of(session: Session, mode: str) -> Display:
    """What shows a build in one of the modes."""
    from dockyard.buildx import progress

    terminal = sys.stderr.isatty()
    if mode == "tty" and not terminal:
        raise Failure("ERROR: failed to get console: provided file is not a console")
    if mode == "quiet":
        return progress.Quiet()
    if mode == "rawjson":
        return progress.RawJSON(sys.stderr)
    about = f"{session.context}:dockyard"
    if terminal and mode != "plain":
        from dockyard.buildx.screen import Screen

        return Screen(sys.stderr, about)
    return progress.Plain(sys.stderr)


def failure(error: BuildFailed | TargetFailed, trace: Trace, mode: str) -> Failure:
    """The report of a failed build: what the step said, the lines of the Dockerfile, and the reason."""
    from dockyard.buildx.excerpt import excerpt

    text = trace.failures(last=0 if mode == "quiet" else 10) if mode != "rawjson" else ""
    text += "".join(map(excerpt, error.sources))
    found = re.search(r"did not complete successfully: exit code: (\d+)$", str(error))
    name = getattr(error, "target", "")
    what = f"target {name}" if name else "failed to build"
    return Failure(f"{text}ERROR: {what}: failed to solve: {error}", int(found[1]) if found else 1)


def warnings(trace: Trace, *, all_of_them: bool) -> str:
    """What the build checks have found, for the end of a build; `all_of_them` that is known of each."""
    found = trace.warnings
    if not found:
        return ""
    count = "1 warning found" if len(found) == 1 else f"{len(found)} warnings found"
    text = f"\n {count}{'' if all_of_them else ' (use docker --debug to expand)'}:\n"
    for one in found:
        text += f" - {one.short.decode(errors='replace')}\n"
        if all_of_them:
            from dockyard.buildx.excerpt import lines_around

            text += "".join(f"{detail.decode(errors='replace')}\n" for detail in one.detail)
            text += f"More info: {one.url}\n" if one.url else ""
            places = [(part.start.line, part.end.line) for part in one.ranges]
            text += lines_around(one.info.filename, one.info.data.decode(errors="replace"), places) + "\n"
    return text


def _write_results(flags: Flags, solved: Solved) -> None:
    """`--iidfile` and `--metadata-file`, as buildx writes them."""
    if flags.given("iidfile"):
        with open(flags.text("iidfile"), "w", encoding="ascii") as file:
            file.write(solved.image)
    if not flags.given("metadata-file"):
        return
    import json

    from dockyard.buildx.metadata import decoded

    told = {**decoded(solved.told), "buildx.build.ref": f"default/default/{solved.ref}"}
    with open(flags.text("metadata-file"), "w", encoding="utf-8") as file:
        json.dump(told, file, indent=2, sort_keys=True)
