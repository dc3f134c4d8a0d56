"""Files that are elsewhere: published projects (`oci://`) and git repositories, copied into a cache by their digests.

docker/compose pkg/remote: the cache is the one that Docker Compose has.
"""

from __future__ import annotations

import os
import re

from dockyard.compose.errors import ComposeError
from dockyard.dockerfile import git_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping
    from typing import Any

    from dockyard.client.registry import Registry

OCI = "oci://"
NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
PROJECT = "application/vnd.docker.compose.project"
COMPOSE_FILE = "application/vnd.docker.compose.file+yaml"
ENV_FILE = "application/vnd.docker.compose.envfile"
EMPTY_CONFIG = "application/vnd.docker.compose.config.empty.v1+json"
MOST_LAYERS = 1000
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_remote(path: str) -> bool:
    """Whether a path names something elsewhere."""
    return path.startswith(OCI) or git_source.is_git(path)


class Remotes:
    """Copies what is elsewhere, each once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._known: dict[str, str] = {}

    def file(self, path: str) -> str:
        """The local copy of the Compose file that `path` names. Raises ComposeError."""
        if path not in self._known:
            kind, variable, fetch = (
                ("OCI", "COMPOSE_EXPERIMENTAL_OCI_REMOTE", self._oci)
                if path.startswith(OCI)
                else ("git", "COMPOSE_EXPERIMENTAL_GIT_REMOTE", self._git)
            )
            if self._environment.get(variable, "").lower() in ("0", "f", "false"):
                raise ComposeError(f'{kind} remote resource is disabled by "{variable}"')
            self._known[path] = fetch(path)
        return self._known[path]

    def folder(self, path: str) -> str:
        """What the file is a part of, to which paths in what is extended are relative, as in Docker Compose."""
        file = self.file(path)
        cache = self._cache()
        return os.path.join(cache, os.path.relpath(file, cache).split(os.sep)[0])

    def _cache(self) -> str:
        base = self._environment.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        path = os.path.join(base, "docker-compose")
        os.makedirs(path, mode=0o700, exist_ok=True)
        return os.path.realpath(path)

    def _kept(self, name: str, fill: Callable[[str], None]) -> str:
        """The folder `name` of the cache, filled by `fill` when it is not there; half of it is never seen."""
        import tempfile

        place = os.path.join(self._cache(), name)
        if os.path.isdir(place):
            return place
        with tempfile.TemporaryDirectory(prefix=".new-", dir=self._cache()) as folder:
            made = os.path.join(folder, "made")
            os.mkdir(made, 0o700)
            fill(made)
            try:
                os.rename(made, place)
            except OSError:
                if not os.path.isdir(place):  # somebody else was quicker
                    raise
        return place

    # -- published projects

    def _oci(self, path: str) -> str:
        from dockyard.client.address import config_folder
        from dockyard.client.registry import Registry, RegistryError
        from dockyard.errors import InvalidParameter
        from dockyard.oci.reference import Reference

        try:
            reference = Reference.parse(path.removeprefix(OCI)).or_latest()
        except InvalidParameter as error:
            raise ComposeError(str(error)) from None
        registry = Registry(reference, config_folder(self._environment))
        try:
            found = registry.manifest(reference.digest or reference.tag or "latest")
            name = found.digest.partition(":")[2]
            folder = self._kept(name, lambda place: self._unpack(registry, found.json(), place))
        except RegistryError as error:
            raise ComposeError(f'failed to pull OCI resource "{reference.full()}": {error}') from None
        return os.path.join(folder, "compose.yaml")

    def _unpack(self, registry: Registry, manifest: Any, folder: str) -> None:
        """Write the files of a published project into `folder`. Raises ComposeError, RegistryError."""
        name = registry.reference.full()
        if isinstance(manifest, dict) and "manifests" in manifest:
            # an application, with its images beside
            projects = [one for one in manifest["manifests"] or () if one.get("artifactType") == PROJECT]
            subject = manifest.get("subject") or {}
            if not projects and subject.get("artifactType") == PROJECT:
                projects = [subject]
            if not projects:
                raise ComposeError(f"OCI index {name} doesn't refer to compose artifacts")
            manifest = registry.manifest(str(projects[-1]["digest"])).json()
        if not isinstance(manifest, dict):
            raise ComposeError(f"{name} is not a compose project OCI artifact")
        kind = manifest.get("artifactType") or ""
        config = (manifest.get("config") or {}).get("mediaType")
        if (kind and kind != PROJECT) or (not kind and config != EMPTY_CONFIG):
            raise ComposeError(f"{name} is not a compose project OCI artifact, but {kind}")
        for number, layer in enumerate((manifest.get("layers") or ())[:MOST_LAYERS]):
            if layer.get("mediaType") not in (COMPOSE_FILE, ENV_FILE):
                continue
            content = registry.blob(str(layer.get("digest")))
            notes = layer.get("annotations") or {}
            if layer["mediaType"] == ENV_FILE:
                if "com.docker.compose.envfile" not in notes:
                    raise ComposeError(f'missing annotation com.docker.compose.envfile in layer "{layer["digest"]}"')
                _write(folder, str(notes["com.docker.compose.envfile"]), content)
                continue
            extends = "com.docker.compose.extends" in notes
            target = str(notes.get("com.docker.compose.file", "")) if extends else "compose.yaml"
            separated = number > 0 and "com.docker.compose.file" in notes
            _write(folder, target, (b"\n---\n" if separated else b"") + content)

    # -- git

    def _git(self, path: str) -> str:
        import shutil

        if shutil.which("git") is None:
            raise ComposeError(f"{path}: git is not installed")
        try:
            source = git_source.parse(path)
        except ValueError as error:
            raise ComposeError(str(error)) from None
        repository, directory = source.repository, source.directory
        commit = self._commit(path, repository, source.commit or source.reference or "HEAD")
        folder = os.path.realpath(self._kept(commit, lambda place: self._check_out(repository, commit, place)))
        found = os.path.realpath(os.path.join(folder, directory))
        if found != folder and not found.startswith(f"{folder}/"):
            raise ComposeError(f"git subdirectory escapes base directory: {directory}")
        if not os.path.exists(found):
            raise ComposeError(f"stat {found}: no such file or directory")
        if os.path.isdir(found):
            files = [place for name in NAMES if os.path.isfile(place := os.path.join(found, name))]
            if not files:
                raise ComposeError(f"{path}: no Compose file: not found")
            found = files[0]
        return found

    def _commit(self, path: str, repository: str, reference: str) -> str:
        if _COMMIT.fullmatch(reference):
            return reference
        done = self._run("ls-remote", "--exit-code", "--", repository, reference)
        if done.returncode == 2:
            raise ComposeError(f"repository does not contain ref {path}")
        if done.returncode:
            raise ComposeError(f"failed to access repository at {repository}:\n {done.stderr.strip()}")
        commit = done.stdout[:40]
        if not _COMMIT.fullmatch(commit):
            raise ComposeError(f'invalid commit sha "{commit}"')
        return commit

    def _check_out(self, repository: str, commit: str, folder: str) -> None:
        for words in (
            ("init", "--quiet"),
            ("remote", "add", "origin", repository),
            ("fetch", "--quiet", "--depth=1", "origin", commit),
            ("checkout", "--quiet", commit),
        ):
            done = self._run("-C", folder, *words)
            if done.returncode:
                raise ComposeError(f"git {words[0]} {repository}: {done.stderr.strip()}")

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        import subprocess

        environment = {**self._environment, "GIT_PROTOCOL_FROM_USER": "0"}  # no commands (ext::)
        environment.setdefault("GIT_TERMINAL_PROMPT", "0")
        if "GIT_SSH" not in environment:
            environment.setdefault("GIT_SSH_COMMAND", "ssh -o ControlMaster=no -o BatchMode=yes")
        return subprocess.run(
            ["git", *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )


def _write(folder: str, name: str, content: bytes) -> None:
    """Add to a file right in `folder`. Raises ComposeError for a name that leads elsewhere."""
    if not name or "/" in name or "\\" in name or name in (".", ".."):
        raise ComposeError("invalid OCI artifact")
    with open(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
        file.write(content)
