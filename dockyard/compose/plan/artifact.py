"""A project as an artifact: its files as layers, and the manifest that lists them (docker/compose internal/oci)."""

from __future__ import annotations

import json
import os
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from dockyard.compose.errors import ComposeError
from dockyard.compose.model import yaml_source
from dockyard.compose.model.load import Loader, LoadOptions
from dockyard.compose.model.remote import COMPOSE_FILE, EMPTY_CONFIG, ENV_FILE, PROJECT, is_remote
from dockyard.compose.model.source import Source
from dockyard.compose.plan.labels import COMPATIBLE_VERSION

if TYPE_CHECKING:
    from dockyard.compose.model.project import Project

Tree = dict[str, Any]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
VERSION_NOTE = "com.docker.compose.version"


class Layer(NamedTuple):
    """A file of the project."""

    media_type: str
    data: bytes
    annotations: dict[str, str]

    def descriptor(self) -> Tree:
        """By which a manifest lists it."""
        return {**described(self.media_type, self.data), "annotations": self.annotations}


def described(media_type: str, data: bytes) -> Tree:
    """The descriptor of some content."""
    return {"mediaType": media_type, "digest": f"sha256:{sha256(data).hexdigest()}", "size": len(data)}


def layers_of(project: Project, *, environment: bool) -> list[Layer]:
    """The files of a project, and those that they extend; with `environment` its env_files too. Raises ComposeError."""
    extended: dict[str, str] = {}
    variables: dict[str, str] = {}
    found = [_compose_layer(path, _portable(project, path, extended, variables)) for path in project.files]
    for path in extended:  # it grows meanwhile
        layer = _compose_layer(extended[path], _portable(project, path, extended, variables))
        found.append(layer._replace(annotations={**layer.annotations, "com.docker.compose.extends": "true"}))
    if environment:
        for path, name in variables.items():
            try:
                with open(path, "rb") as file:
                    data = file.read()
            except OSError:
                continue  # one that need not be there
            found.append(Layer(ENV_FILE, data, {VERSION_NOTE: COMPATIBLE_VERSION, "com.docker.compose.envfile": name}))
    return found


def _compose_layer(path: str, data: bytes) -> Layer:
    notes = {VERSION_NOTE: COMPATIBLE_VERSION, "com.docker.compose.file": os.path.basename(path)}
    return Layer(COMPOSE_FILE, data, notes)


def digests_layer(text: str) -> Layer:
    """The file that pins images to digests."""
    return _compose_layer("image-digests.yaml", text.encode())


def _portable(project: Project, path: str, extended: dict[str, str], variables: dict[str, str]) -> bytes:
    """A file in which other files are named as they are in the artifact, written down in `extended` and `variables`."""
    text = Source(path).read()
    options = LoadOptions(validate=False, extend=False, include=False, consistency=False, normalize=False)
    loader = Loader(project.environment, lambda warning: None, options)
    tree = loader.tree([Source(path, text)], os.path.dirname(path))
    for name, service in (tree.get("services") or {}).items():
        if not isinstance(service, dict):
            continue
        for index, entry in enumerate(service.get("env_file") or ()):
            place = os.path.abspath(os.path.join(project.folder, str(entry["path"])))
            variables[place] = f"{_hash(place)}.env"
            text = yaml_source.with_env_file(text, name, index, variables[place])
        file = (service.get("extends") or {}).get("file") if isinstance(service.get("extends"), dict) else None
        if not file or is_remote(str(file)):
            continue
        place = os.path.normpath(os.path.join(os.path.dirname(path), str(file)))
        if os.path.exists(place):
            extended.setdefault(place, f"{_hash(place)}.yaml")
            text = yaml_source.with_extends_file(text, name, extended[place])
    return text


def _hash(path: str) -> str:
    return sha256(path.encode(errors="surrogateescape")).hexdigest()


def manifest_of(layers: list[Layer], version: str) -> tuple[bytes, bytes, str]:
    """The manifest as OCI 1.1 or 1.0 has it, its configuration, and its kind. Raises ComposeError."""
    if version not in ("1.0", "1.1"):
        raise ComposeError(f"unsupported OCI version: {version}")
    config = b"{}"
    kind = PROJECT if version == "1.1" else ""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        **({"artifactType": kind} if kind else {}),
        "config": described(EMPTY if kind else EMPTY_CONFIG, config),
        "layers": [layer.descriptor() for layer in layers],
        "annotations": {"org.opencontainers.image.created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
    }
    return json.dumps(document, separators=(",", ":")).encode(), config, kind


def index_of(manifest: bytes, kind: str, images: list[Tree]) -> bytes:
    """The index that says which images belong to the project of a manifest."""
    subject = {**described(MANIFEST, manifest), "annotations": {VERSION_NOTE: COMPATIBLE_VERSION}}
    document = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": images,
        "subject": {**subject, **({"artifactType": kind} if kind else {})},
        "annotations": {VERSION_NOTE: COMPATIBLE_VERSION},
    }
    return json.dumps(document, separators=(",", ":")).encode()
