"""A folder packed as a build's context: without what .dockerignore leaves out, with the Dockerfile wherever it is."""

from __future__ import annotations

import os

from dockyard.client.archive import Packing
from dockyard.client.errors import ArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def pack_folder(
    source: str, dockerfile: str = "", read_stdin: Callable[[], bytes] | None = None
) -> tuple[str, Iterator[bytes]]:
    """The Dockerfile's name in the context, and the context as pieces of a tar archive in which root owns everything.

    `dockerfile` may be relative to the context or to where we are, or lie outside of the context, or be "-": what
    `read_stdin` gives. Raises ArchiveError when there is no Dockerfile, OSError.
    """
    root = os.path.realpath(source)
    name, extra = _dockerfile(root, dockerfile, read_stdin)
    wanted = _wanted(root, name)
    if extra:
        extra[".dockerignore"] = _ignoring(root, name)
    packing = Packing(
        root,
        ".",
        owner=(0, 0),
        wanted=lambda path, is_folder: path not in extra and wanted(path, is_folder),
        extra=extra,
    )
    return name, iter(packing)


def _ignoring(root: str, name: str) -> bytes:
    """A .dockerignore by which a Dockerfile that was brought along is no file of the context's to `COPY .`."""
    try:
        with open(os.path.join(root, ".dockerignore"), "rb") as file:
            return file.read() + f"\n{name}\n".encode()
    except FileNotFoundError:
        return f".dockerignore\n{name}\n".encode()


def _dockerfile(root: str, given: str, read_stdin: Callable[[], bytes] | None) -> tuple[str, dict[str, bytes]]:
    """The Dockerfile's name in the context, and the file itself when it comes from elsewhere."""
    outside = f".dockerfile.{os.urandom(10).hex()}"
    if given == "-" and read_stdin is not None:
        return outside, {outside: read_stdin()}
    place = os.path.join(root, "Dockerfile")
    if given:
        place = os.path.abspath(given) if os.path.isabs(given) or os.path.exists(given) else os.path.join(root, given)
    elif not os.path.lexists(place) and os.path.lexists(os.path.join(root, "dockerfile")):
        place = os.path.join(root, "dockerfile")
    if not os.path.exists(place):
        raise ArchiveError(
            "unable to prepare context: unable to evaluate symlinks in Dockerfile path: "
            f"lstat {place}: no such file or directory"
        )
    real = os.path.realpath(place)
    if os.path.commonpath([real, root]) == root:
        inside = os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place))
        return os.path.relpath(inside if os.path.commonpath([inside, root]) == root else real, root), {}
    with open(real, "rb") as file:
        return outside, {outside: file.read()}


def _wanted(root: str, dockerfile: str) -> Callable[[str, bool], bool]:
    """What .dockerignore lets through; the Dockerfile and itself always, for the engine needs them."""
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        try:
            with open(os.path.join(root, name), encoding="utf-8") as file:
                text = file.read()
            break
        except (FileNotFoundError, NotADirectoryError):
            continue
    else:
        return lambda _path, _is_folder: True
    # the one thing that a client and the builder share; it stands on the standard library alone
    from dockyard.dockerfile.dockerignore import BadPattern, IgnoreRules

    try:
        rules = IgnoreRules.parse(text)
    except BadPattern as error:
        raise ArchiveError(f"failed to read .dockerignore: {error}") from None
    exceptions = any(line.strip().startswith("!") for line in text.split("\n"))

    def wanted(path: str, is_folder: bool) -> bool:
        if path in (dockerfile, ".dockerignore") or dockerfile.startswith(path + "/"):
            return True
        return not rules.excludes(path) or (is_folder and exceptions)

    return wanted
