"""Which operation on which object a request asks for, and what its caller must be allowed to do for that."""

import re
from dataclasses import dataclass, field

from dockyard.oci.digest import is_digest
from dockyard.oci.reference import is_path
from dockyard.registry.errors import Refused
from dockyard.web.head import parse_query, unescape

_IN_REPOSITORY = re.compile(
    r"/v2/(?P<name>.+)/(?:"
    r"(?P<tags>tags/list)|manifests/(?P<manifest>[^/]+)|referrers/(?P<subject>[^/]+)|"
    r"blobs/uploads/?(?P<upload>[^/]*)|blobs/(?P<blob>[^/]+))"
)


@dataclass(frozen=True, slots=True)
class Access:
    """The right to do something: repository:library/busybox:pull."""

    type: str
    name: str
    action: str


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about: `kind` is base, catalog, tags, manifest, referrers, blob, uploads or upload."""

    kind: str
    name: str = ""
    reference: str = ""
    query: dict[str, list[str]] = field(default_factory=dict)

    def parameter(self, name: str) -> str:
        """The first value of a parameter of the query, or ""."""
        return self.query.get(name, [""])[0]

    def number(self, name: str) -> int | None:
        """A parameter that is a number and not negative. Raises Refused."""
        text = self.parameter(name)
        if not text:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise Refused("PAGINATION_NUMBER_INVALID", {name: text})
        return int(text)


def find_target(path: str, query: str) -> Target | None:
    """What `path` (percent-encoded) names; None when it is nothing. Raises Refused for names that cannot be."""
    try:
        path = unescape(path)
        parameters = parse_query(query) if query else {}
    except ValueError as error:
        raise Refused("NAME_INVALID", str(error)) from None
    if path in ("/v2/", "/v2"):
        return Target("base")
    if path == "/v2/_catalog":
        return Target("catalog", query=parameters)
    found = _IN_REPOSITORY.fullmatch(path)
    if found is None:
        return None
    name = found["name"]
    if not is_path(name):
        raise Refused("NAME_INVALID", {"name": name})
    if found["tags"]:
        return Target("tags", name, query=parameters)
    if found["manifest"]:
        return Target("manifest", name, found["manifest"], parameters)
    if found["subject"]:
        return Target("referrers", name, _digest(found["subject"]), parameters)
    if found["blob"] and found["blob"] != "uploads":
        return Target("blob", name, _digest(found["blob"]), parameters)
    if found["upload"]:
        return Target("upload", name, _upload_id(found["upload"]), parameters)
    return Target("uploads", name, query=parameters)


def needed(target: Target, method: str) -> list[Access]:
    """The rights that the request needs."""
    if target.kind == "base":
        return []
    if target.kind == "catalog":
        return [Access("registry", "catalog", "*")]
    if method in ("GET", "HEAD"):
        actions = ["pull"]
    elif method == "DELETE" and target.kind != "upload":
        actions = ["delete"]
    else:
        actions = ["pull", "push"]
    found = [Access("repository", target.name, action) for action in actions]
    source = target.parameter("from")
    if target.kind == "uploads" and method == "POST" and target.parameter("mount") and is_path(source):
        found.append(Access("repository", source, "pull"))
    return found


def _digest(text: str) -> str:
    if not is_digest(text):
        raise Refused("DIGEST_INVALID", text)
    return text


def _upload_id(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f-]{36}", text):
        raise Refused("BLOB_UPLOAD_UNKNOWN")
    return text
