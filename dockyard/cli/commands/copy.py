"""Files into and out of containers: cp, export, commit."""

from __future__ import annotations

import os
import sys

from dockyard.cli import output
from dockyard.cli.archive_files import CHUNK, save_to
from dockyard.cli.errors import Failure
from dockyard.cli.image_names import split
from dockyard.cli.session import Session, path
from dockyard.cli.usage import Flags, usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

VOLUME = "volume:"


@usage(
    """
dockyard cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-
dockyard cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH

Copy files/folders between a container and the local filesystem

Both may be containers. volume:NAME:PATH is a path in a volume. The path in a
container or volume may hold *, ? and [...] (in quotes, for the shell).

"-" is a tar archive: as the source on standard input, as the destination on standard output.

Options:
  -a, --archive       Keep owner and group
  -L, --follow-link   Follow a symbolic link that is the source
  -q, --quiet         Show no progress
"""
)
def cp(session: Session, flags: Flags) -> int:
    """Copies, with the rules of cp -a."""
    source, target = flags.arguments
    from_container, from_path = _place(source)
    to_container, to_path = _place(target)
    if not from_container and not to_container:
        raise Failure("must specify at least one container source")
    if from_container:
        found = _matches(session, from_container, from_path)
        if to_container:
            return max(_across(session, from_container, one, to_container, to_path, flags, len(found)) for one in found)
        if len(found) > 1 and not os.path.isdir(to_path):
            raise Failure(f'invalid output path: directory "{to_path}" does not exist')
        return max(_Out(session, from_container, flags).copy(one, to_path) for one in found)
    return _In(session, to_container, flags).copy(from_path, to_path)


def _files(of: str, **values: object) -> str:
    """Where the files of a container are, or with `volume:` in front those of a volume."""
    if of.startswith(VOLUME):
        return path("/dockyard/archive", of=of, **values)
    return path("/containers", of, "/archive", **values)


def _matches(session: Session, of: str, place: str) -> list[str]:
    """The paths that a pattern means; a plain path, and one that is there as it is written, means itself."""
    if not set(place) & set("*?[") or _stat(session, of, place) is not None:
        return [place]
    found: list[str] = session.api.request("GET", path("/dockyard/glob", of=of, path=place)).json()["Matches"]
    if not found:
        raise Failure(f"no such file or directory: nothing in {of} matches {place}")
    return found


def _across(session: Session, of: str, source: str, to: str, target: str, flags: Flags, count: int) -> int:
    """From a container or volume to another, by the rules of cp -a; nothing is stored in between."""
    there = _stat(session, to, target)
    folder = bool(there and there["mode"] & _DIRECTORY)
    here = _stat(session, of, source)
    if here is None:
        raise Failure(f"Could not find the file {source} in {of}")
    name = ""
    if not folder:
        if count > 1:
            raise Failure(f'destination "{to}:{target}" must be a directory')
        if there and here["mode"] & _DIRECTORY:
            raise Failure(f'cannot copy a directory onto the file "{to}:{target}"')
        if target.endswith("/") and not here["mode"] & _DIRECTORY:
            raise Failure("no such directory")
        plain = _strip(target)
        target, name = os.path.dirname(plain) or "/", os.path.basename(plain)
    request = path("/dockyard/archive", of=of, path=source, name=name)
    pieces = session.api.request("GET", request).pieces()
    place = _files(to, path=target, noOverwriteDirNonDir="true", copyUIDGID=None)
    session.api.request("PUT", place, pieces, headers={"Content-Type": "application/x-tar"}).read()
    return 0


def _place(text: str) -> tuple[str, str]:
    """Container and path; a local path that looks like one is written ./name:rest."""
    if text.startswith(("/", ".")) or ":" not in text:
        return "", text
    if text.startswith(VOLUME) and ":" in text.removeprefix(VOLUME):
        name, _, rest = text.removeprefix(VOLUME).partition(":")
        return VOLUME + name, rest or "/"
    container, _, rest = text.partition(":")
    return container, rest


def _stat(session: Session, container: str, place: str) -> dict[str, Any] | None:
    import base64
    import json

    response = session.api.request("HEAD", _files(container, path=place), check=False)
    if response.status == 404:
        return None
    if response.status >= 400:
        raise Failure(f"Error response from daemon: cannot stat {place}: status {response.status}")
    found: dict[str, Any] = json.loads(base64.b64decode(response.headers["x-docker-container-path-stat"]))
    return found


_DIRECTORY = 1 << 31  # of Go's FileMode
_SYMLINK = 1 << 27


def _strip(place: str) -> str:
    return place.rstrip("/") or "/"


class _Out:
    """From a container."""

    def __init__(self, session: Session, container: str, flags: Flags) -> None:
        self._session, self._container = session, container
        self._archive, self._follow, self._quiet = (flags.on(name) for name in ("archive", "follow-link", "quiet"))
        self._quiet = self._quiet or not sys.stderr.isatty()

    def copy(self, source: str, target: str) -> int:
        """Copy `source` of the container to the local `target`."""
        if self._follow:
            found = _stat(self._session, self._container, source)
            if found and found["mode"] & _SYMLINK:
                source = os.path.join(os.path.dirname(_strip(source)), found["linkTarget"])
        place = _files(self._container, path=source)
        if target == "-":
            response = self._session.api.request("GET", place)
            for piece in response.pieces():
                sys.stdout.buffer.write(piece)
            return 0
        into = os.path.isdir(target)
        if not into and target.endswith("/"):
            raise Failure(f'invalid output path: directory "{target}" does not exist')
        if not os.path.isdir(os.path.dirname(os.path.abspath(target))):
            parent = os.path.dirname(os.path.abspath(target))
            raise Failure(f'invalid output path: directory "{parent}" does not exist')
        from dockyard.client.archive import unpack

        counted = [0]
        pieces = _counting(self._session.api.request("GET", place).pieces(), counted)
        unpack(pieces, target, into=into, contents=source.endswith("/."), owners=self._archive)
        if not self._quiet:
            print(f"Successfully copied {output.size(counted[0])} to {os.path.abspath(target)}", file=sys.stderr)
        return 0


def _counting(pieces: Iterator[bytes], counted: list[int]) -> Iterator[bytes]:
    for piece in pieces:
        counted[0] += len(piece)
        yield piece


class _In:
    """To a container."""

    def __init__(self, session: Session, container: str, flags: Flags) -> None:
        self._session, self._container = session, container
        self._archive, self._follow, self._quiet = (flags.on(name) for name in ("archive", "follow-link", "quiet"))
        self._quiet = self._quiet or not sys.stderr.isatty()

    def copy(self, source: str, target: str) -> int:
        """Copy the local `source` to `target` of the container."""
        found = _stat(self._session, self._container, target)
        if found and found["mode"] & _SYMLINK and found.get("linkTarget"):
            link = found["linkTarget"]
            target = link if link.startswith("/") else os.path.join(os.path.dirname(_strip(target)), link)
            found = _stat(self._session, self._container, target)
        is_folder = bool(found and found["mode"] & _DIRECTORY)
        if source == "-":
            if not is_folder:
                raise Failure(f'destination "{self._container}:{target}" must be a directory')
            self._put(target, iter(lambda: sys.stdin.buffer.read(CHUNK), b""))
            return 0
        plain = source.rstrip("/") if source not in ("/",) else source
        if not os.path.lexists(plain):
            raise Failure(f"lstat {os.path.abspath(plain)}: no such file or directory")
        folder = os.path.isdir(source) and (self._follow or not os.path.islink(plain) or source != plain)
        contents = source.endswith(("/.",)) or source == "."
        if not is_folder:
            if folder and found:
                raise Failure(f'cannot copy a directory onto the file "{self._container}:{target}"')
            if target.endswith("/") and not folder:
                raise Failure("no such directory")
            into, name = os.path.dirname(_strip(target)) or "/", os.path.basename(_strip(target))
        else:
            into = target
            name = "." if contents else os.path.basename(os.path.abspath(plain))
        from dockyard.client.archive import Packing

        owner = None if self._archive else (0, 0)
        packing = Packing(os.path.realpath(plain) if self._follow else plain, name, owner=owner)
        self._put(into, iter(packing))
        if not self._quiet:
            print(f"Successfully copied {output.size(packing.sent)} to {self._container}:{target}", file=sys.stderr)
        return 0

    def _put(self, place: str, pieces: Iterator[bytes]) -> None:
        request = _files(
            self._container,
            path=place,
            noOverwriteDirNonDir="true",
            copyUIDGID="true" if self._archive else None,
        )
        self._session.api.request("PUT", request, pieces, headers={"Content-Type": "application/x-tar"}).read()


@usage(
    """
dockyard export [OPTIONS] CONTAINER

Export a container's filesystem as a tar archive

Options:
  -o, --output string   File to write, instead of STDOUT
"""
)
def export(session: Session, flags: Flags) -> int:
    """Writes the archive."""
    target = flags.text("output")
    if not target and sys.stdout.isatty():
        raise Failure("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    response = session.api.request("GET", path("/containers", flags.arguments[0], "/export"))
    save_to(target, response.pieces(), "failed to export container: ")
    return 0


@usage(
    """
dockyard commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]

Create a new image from a container's changes

Options:
  -a, --author string    Author ("Jane Doe <jane@example.org>")
  -c, --change list      Dockerfile instruction to apply
  -m, --message string   Commit message
  -p, --pause            Pause the container meanwhile (default true)
"""
)
def commit(session: Session, flags: Flags) -> int:
    """Prints the image's ID."""
    name, tag = split(flags.arguments[1]) if len(flags.arguments) > 1 else ("", "")
    place = path(
        "/commit",
        container=flags.arguments[0],
        repo=name,
        tag=tag,
        author=flags.text("author"),
        comment=flags.text("message"),
        pause=None if flags.on("pause", default=True) else "0",
        changes=flags.all("change"),
    )
    print(session.api.request("POST", place, {}).json()["Id"])
    return 0
