"""Contexts: named engines, in the store that Docker's client keeps too.

contexts/meta/SHA256-OF-NAME/meta.json       {"Name", "Metadata": {"Description"}, "Endpoints": {"docker": {"Host", …}}}
contexts/tls/SHA256-OF-NAME/docker/*.pem     ca.pem, cert.pem, key.pem
"""

from __future__ import annotations

import os
import shutil

from dockyard.cli.errors import Failure
from dockyard.oci.quick_json import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Meta = dict[str, Any]

DEFAULT = "default"
_NAME = "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"
_LARGEST = 10 << 20  # bytes of an imported archive


class ContextStore:
    """The contexts below the client's configuration folder."""

    def __init__(self, folder: str, default_host: str) -> None:
        """`default_host`: where the context `default`, which is not stored, leads."""
        self._root = f"{folder}/contexts"
        self._default_host = default_host

    def metadata_path(self, name: str) -> str:
        """The folder of a context's description."""
        return f"{self._root}/meta/{_digest(name)}"

    def tls_path(self, name: str) -> str:
        """The folder of a context's certificates."""
        return f"{self._root}/tls/{_digest(name)}"

    def get(self, name: str) -> Meta:
        """A context. Raises Failure."""
        if name == DEFAULT:
            return {
                "Name": DEFAULT,
                "Metadata": {},
                "Endpoints": {"docker": {"Host": self._default_host, "SkipTLSVerify": False}},
            }
        return _read(f"{self.metadata_path(name)}/meta.json", name)

    def all(self) -> list[Meta]:
        """Every context, by name."""
        found = [self.get(DEFAULT)]
        try:
            folders = os.listdir(f"{self._root}/meta")
        except FileNotFoundError:
            folders = []
        for folder in folders:
            path = f"{self._root}/meta/{folder}/meta.json"
            if os.path.exists(path):
                found.append(_read(path, ""))
        return sorted(found, key=lambda meta: str(meta["Name"]))

    def write(self, meta: Meta) -> None:
        """Store a context under its name."""
        import json

        folder = self.metadata_path(meta["Name"])
        os.makedirs(folder, mode=0o755, exist_ok=True)
        temporary = f"{folder}/meta.json.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(meta, file, separators=(",", ":"), ensure_ascii=False)
        os.replace(temporary, f"{folder}/meta.json")

    def write_tls(self, name: str, files: dict[str, dict[str, bytes]]) -> None:
        """Replace a context's certificates: endpoint -> file's name -> content."""
        shutil.rmtree(self.tls_path(name), ignore_errors=True)
        for endpoint, contents in files.items():
            folder = f"{self.tls_path(name)}/{endpoint}"
            os.makedirs(folder, mode=0o700, exist_ok=True)
            for file_name, content in contents.items():
                descriptor = os.open(f"{folder}/{file_name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)

    def tls_files(self, name: str) -> dict[str, list[str]]:
        """The names of a context's certificate files, by endpoint."""
        top = self.tls_path(name)
        if name == DEFAULT or not os.path.isdir(top):
            return {}
        return {endpoint: sorted(os.listdir(f"{top}/{endpoint}")) for endpoint in sorted(os.listdir(top))}

    def remove(self, name: str) -> None:
        """Forget a context."""
        shutil.rmtree(self.metadata_path(name), ignore_errors=True)
        shutil.rmtree(self.tls_path(name), ignore_errors=True)

    def check_new(self, name: str) -> None:
        """Raise Failure unless a context of this name may be made."""
        check_name(name)
        if os.path.exists(f"{self.metadata_path(name)}/meta.json"):
            raise Failure(f'context "{name}" already exists')

    def export(self, name: str, to: Any) -> None:
        """Write a context and its certificates as a tar archive."""
        import io
        import json
        import tarfile

        meta = json.dumps(self.get(name), separators=(",", ":"), ensure_ascii=False).encode()
        files = {"meta.json": meta}
        folders = ["tls"]
        for endpoint, names in self.tls_files(name).items():
            folders.append(f"tls/{endpoint}")
            for file_name in names:
                with open(f"{self.tls_path(name)}/{endpoint}/{file_name}", "rb") as file:
                    files[f"tls/{endpoint}/{file_name}"] = file.read()
        with tarfile.open(fileobj=to, mode="w|", format=tarfile.USTAR_FORMAT) as archive:
            for path in ["meta.json", *folders, *list(files)[1:]]:
                member = tarfile.TarInfo(path)
                if path in files:
                    member.size, member.mode = len(files[path]), 0o644 if path == "meta.json" else 0o600
                    archive.addfile(member, io.BytesIO(files[path]))
                else:
                    member.type, member.mode = tarfile.DIRTYPE, 0o700
                    archive.addfile(member)

    def import_(self, name: str, data: bytes) -> None:
        """Store the context that an exported tar or zip archive holds as `name`. Raises Failure."""
        import json

        self.check_new(name)
        meta: Meta | None = None
        tls: dict[str, dict[str, bytes]] = {}
        for path, content in _members(data):
            if path == "meta.json":
                try:
                    meta = {**json.loads(content), "Name": name}
                except ValueError as error:
                    raise Failure(f"invalid context: {error}") from None
                continue
            if not path.startswith("tls/"):
                raise Failure(f"{path}: unexpected context file")
            if os.path.normpath(path) != path or "\\" in path or len(path.split("/")) != 3:
                raise Failure(f"{path}: unexpected path format")
            _, endpoint, file_name = path.split("/")
            tls.setdefault(endpoint, {})[file_name] = content
        if meta is None:
            raise Failure("invalid context: no metadata found")
        self.write(meta)
        self.write_tls(name, tls)


def check_name(name: str) -> None:
    """Raise Failure for what cannot be a context's name."""
    import re

    if not name:
        raise Failure("context name cannot be empty")
    if name == DEFAULT:
        raise Failure('"default" is a reserved context name')
    if not re.match(_NAME, name):
        raise Failure(f'context name "{name}" is invalid, names are validated against regexp "{_NAME}"')


def _digest(name: str) -> str:
    from _sha256 import sha256  # type: ignore[import-not-found]  # hashlib loads OpenSSL

    digest: str = sha256(name.encode()).hexdigest()
    return digest


def _read(path: str, name: str) -> Meta:
    try:
        with open(path, encoding="utf-8") as file:
            found: Meta = loads(file.read())
    except FileNotFoundError:
        raise Failure(f'context "{name}": context not found: open {path}: no such file or directory') from None
    except ValueError as error:
        raise Failure(f"parsing {path}: {error}") from None
    return {"Metadata": {}, "Endpoints": {}, **found}


def _members(data: bytes) -> list[tuple[str, bytes]]:
    """The regular files of a tar or zip archive."""
    import io

    if len(data) > _LARGEST:
        raise Failure("read exceeds the defined limit")
    if data.startswith(b"PK\x03\x04"):
        import zipfile

        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                raise Failure("read exceeds the defined limit")
            return [(entry.filename, archive.read(entry)) for entry in archive.infolist() if not entry.is_dir()]
    import tarfile

    found: list[tuple[str, bytes]] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None:
                    found.append((member.name, file.read()))
    except tarfile.TarError:
        pass  # what docker exports lacks the end of an archive; without any file it is no context
    return found
