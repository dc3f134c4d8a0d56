"""Directories of ours that hold blobs, as the engine reads and writes them: caches of type local.

They are OCI layouts. The service is containerd's content store on the session, a store per directory, each known by
`local:DIRECTORY` (moby/buildkit, session/content and client/solve.go).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dockyard.buildkit import wire_pb2 as wire
from dockyard.buildx.request import Attributes, BuildRequest, InvalidRequest
from dockyard.errors import InvalidParameter
from dockyard.grpc import status
from dockyard.grpc.calls import Method, request_of
from dockyard.grpc.connection import Stream
from dockyard.grpc.status import CallFailed
from dockyard.oci.digest import check_digest

SERVICE = "/containerd.services.content.v1.Content/"
STORE = "buildkit-attachable-store-id"
STAT, WRITE, COMMIT = range(3)
PIECE = 1 << 20
REFERENCE_NAME = "org.opencontainers.image.ref.name"
INDEX = "application/vnd.oci.image.index.v1+json"


class Directory:
    """One OCI layout."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def blob(self, digest: str) -> Path:
        """Where a blob lies. Raises CallFailed for what is no digest."""
        try:
            return self.path / "blobs" / check_digest(digest).replace(":", "/")
        except InvalidParameter as error:
            raise CallFailed(status.INVALID_ARGUMENT, error.message) from None

    def tagged(self, tag: str) -> str:
        """The digest of what `index.json` has under a tag, "" for nothing. Raises OSError, ValueError."""
        index = json.loads((self.path / "index.json").read_bytes())
        for entry in index.get("manifests") or ():
            if (entry.get("annotations") or {}).get(REFERENCE_NAME) == tag:
                return str(entry["digest"])
        return ""

    def tag(self, entry: dict[str, Any], tag: str) -> None:
        """Have `index.json` lead to a manifest under a tag, instead of what had that before. Raises OSError."""
        with self._locked():
            (self.path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
            index: dict[str, Any] = {}
            with suppress(OSError, ValueError):
                index = json.loads((self.path / "index.json").read_bytes())
            others = [
                one for one in index.get("manifests") or () if (one.get("annotations") or {}).get(REFERENCE_NAME) != tag
            ]
            named = {**entry, "annotations": {**(entry.get("annotations") or {}), REFERENCE_NAME: tag}}
            index = {"schemaVersion": 2, "mediaType": INDEX, **index, "manifests": [*others, named]}
            fresh = self.path / f"index.json.{secrets.token_hex(4)}"
            fresh.write_text(json.dumps(index))
            fresh.replace(self.path / "index.json")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Against others that write the same index; the lock's file is buildx's."""
        with (self.path / "index.json.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class Stores:
    """The stores of one build."""

    def __init__(self) -> None:
        self._directories: dict[str, Directory] = {}
        self._tags: dict[str, str] = {}

    def imports(self, entries: list[tuple[str, Attributes]]) -> list[tuple[str, Attributes]]:
        """Caches to read, those of type local with the digests that the engine asks for; without what is not there.

        Raises InvalidRequest.
        """
        found = []
        for kind, attributes in entries:
            if kind == "local":
                source = attributes.get("src", "")
                if not source:
                    raise InvalidRequest("local cache importer requires src")
                digest = attributes.get("digest") or self._digest(source, attributes.get("tag", "latest"))
                if not digest:
                    continue
                attributes = {**attributes, "digest": digest}
                self._directories[f"local:{source}"] = Directory(source)
            found.append((kind, attributes))
        return found

    @staticmethod
    def _digest(source: str, tag: str) -> str:
        try:
            found = Directory(source).tagged(tag)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            print(f"WARNING: local cache import at {source} not found due to err: {error}", file=sys.stderr)
            return ""
        if not found:
            raise InvalidRequest(
                'local cache importer requires either explicit digest, "latest" tag or custom tag on index.json'
            )
        return found

    def exports(self, entries: list[tuple[str, Attributes]]) -> None:
        """Have the directories of caches to write. Raises InvalidRequest."""
        for kind, attributes in entries:
            if kind != "local":
                continue
            place = attributes.get("dest", "")
            if not place:
                raise InvalidRequest("local cache exporter requires dest")
            try:
                os.makedirs(place, exist_ok=True)
            except OSError as error:
                raise InvalidRequest(f"cannot make {place}: {(error.strerror or str(error)).lower()}") from None
            self._directories[f"local:{place}"] = Directory(place)
            self._tags[place] = attributes.get("tag", "latest")

    def finish(self, told: Mapping[str, str]) -> None:
        """The build has ended and has told of a cache: the indexes lead to it. Raises OSError."""
        if "cache.manifest" in told:
            for place, tag in self._tags.items():
                Directory(place).tag(json.loads(told["cache.manifest"]), tag)

    @property
    def methods(self) -> dict[str, Method]:
        """What the session serves."""
        if not self._directories:
            return {}
        return {f"{SERVICE}Info": self._info, f"{SERVICE}Read": self._read, f"{SERVICE}Write": self._write}

    def _directory(self, stream: Stream) -> Directory:
        name = stream.headers.get(STORE, "")
        found = self._directories.get(name)
        if found is None:
            raise CallFailed(status.NOT_FOUND, f"no content store {name}")
        return found

    async def _info(self, stream: Stream) -> None:
        digest = wire.ContentInfoRequest.FromString(await request_of(stream)).digest
        try:
            size = self._directory(stream).blob(digest).stat().st_size
        except OSError:
            raise CallFailed(status.NOT_FOUND, f"content {digest}: not found") from None
        info = wire.ContentInfo(digest=digest, size=size)
        await stream.send(wire.ContentInfoResponse(info=info).SerializeToString())

    async def _read(self, stream: Stream) -> None:
        request = wire.ReadContentRequest.FromString(await request_of(stream))
        try:
            file = self._directory(stream).blob(request.digest).open("rb")
        except OSError:
            raise CallFailed(status.NOT_FOUND, f"content {request.digest}: not found") from None
        with file:
            offset = file.seek(request.offset)
            left = request.size or os.fstat(file.fileno()).st_size
            while left > 0 and (data := file.read(min(PIECE, left))):
                await stream.send(wire.ReadContentResponse(offset=offset, data=data).SerializeToString())
                offset, left = offset + len(data), left - len(data)

    async def _write(self, stream: Stream) -> None:
        """One blob: asked for its state, its pieces in order, and its end."""
        directory = self._directory(stream)
        folder = directory.path / "ingest"
        folder.mkdir(exist_ok=True)
        place = folder / secrets.token_hex(8)
        try:
            with place.open("xb") as file:
                hasher = hashlib.sha256()
                while (message := await stream.receive()) is not None:
                    request = wire.WriteContentRequest.FromString(message)
                    if request.offset != file.tell() and (request.data or request.action == COMMIT):
                        raise CallFailed(status.INVALID_ARGUMENT, f"offset {request.offset} is not {file.tell()}")
                    file.write(request.data)
                    hasher.update(request.data)
                    digest = f"sha256:{hasher.hexdigest()}"
                    if request.action == COMMIT:
                        self._commit(directory, place, file.tell(), digest, request)
                    answer = wire.WriteContentResponse(action=request.action, offset=file.tell(), digest=digest)
                    await stream.send(answer.SerializeToString())
        finally:
            place.unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()

    @staticmethod
    def _commit(directory: Directory, place: Path, size: int, digest: str, request: wire.WriteContentRequest) -> None:
        if request.total and request.total != size:
            raise CallFailed(status.FAILED_PRECONDITION, f"unexpected commit size {size}, expected {request.total}")
        if request.expected and request.expected != digest:
            raise CallFailed(status.FAILED_PRECONDITION, f"unexpected commit digest {digest}")
        target = directory.blob(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.chmod(place, 0o444)
        place.replace(target)


def served(request: BuildRequest) -> Stores:
    """The stores of a build; the request then says what is there. Raises InvalidRequest."""
    stores = Stores()
    request.cache_imports = stores.imports(request.cache_imports)
    stores.exports(request.cache_exports)
    return stores
