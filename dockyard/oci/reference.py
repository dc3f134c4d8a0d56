"""Names of images: [DOMAIN/]PATH[:TAG][@DIGEST], as a user may write them and in full (distribution/reference).

A short name means Docker Hub: `busybox` is `docker.io/library/busybox`.
"""

import re
from dataclasses import dataclass, replace

from dockyard.errors import InvalidParameter
from dockyard.oci.digest import PATTERN as DIGEST

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL = "library/"

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised name; a name without tag and digest has None for both."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read a name as a user writes it. Raises InvalidParameter in Docker's words."""
        if re.fullmatch(r"[0-9a-f]{64}", text):
            raise InvalidParameter(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
        rest, at, digest = text.partition("@")
        domain, rest = _split_domain(rest)
        path, colon, tag = rest.partition(":")
        if path != path.lower():
            shown = path if colon else path + at + digest.partition(":")[0]
            raise InvalidParameter(f"invalid reference format: repository name ({shown}) must be lowercase")
        if (at and DIGEST.fullmatch(digest) is None) or (colon and _TAG.fullmatch(tag) is None):
            raise InvalidParameter("invalid reference format")
        if _DOMAIN.fullmatch(domain) is None or _PATH.fullmatch(path) is None:
            raise InvalidParameter("invalid reference format")
        if len(path) > LONGEST_NAME:
            raise InvalidParameter("repository name must not be more than 255 characters")
        return cls(domain, path, tag if colon else None, digest if at else None)

    @property
    def repository(self) -> "Reference":
        """The name without tag and digest."""
        return replace(self, tag=None, digest=None)

    def with_tag(self, tag: str) -> "Reference":
        """The same repository's `tag`. Raises InvalidParameter for a bad one."""
        if _TAG.fullmatch(tag) is None:
            raise InvalidParameter("invalid tag format")
        return replace(self, tag=tag, digest=None)

    def with_digest(self, digest: str) -> "Reference":
        """The same repository's `digest`."""
        return replace(self, tag=None, digest=digest)

    def or_latest(self) -> "Reference":
        """With the tag `latest` where there is neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag="latest")

    def full(self) -> str:
        """docker.io/library/busybox:latest"""
        return self._suffixed(f"{self.domain}/{self.path}")

    def familiar(self) -> str:
        """busybox:latest: as short as it can be written."""
        return self._suffixed(self.familiar_name())

    def familiar_name(self) -> str:
        """The repository as short as it can be written."""
        if self.domain != DEFAULT_DOMAIN:
            return f"{self.domain}/{self.path}"
        short = self.path.removeprefix(OFFICIAL)
        return short if "/" not in short else self.path

    def _suffixed(self, name: str) -> str:
        return name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.full()


def is_domain(text: str) -> bool:
    """Whether `text` may be a registry's name, with or without a port."""
    return _DOMAIN.fullmatch(text) is not None


def is_path(text: str) -> bool:
    """Whether `text` may be a repository's name, without the registry's."""
    return len(text) <= LONGEST_NAME and _PATH.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether `text` may be a tag."""
    return _TAG.fullmatch(text) is not None


def _split_domain(name: str) -> tuple[str, str]:
    """What comes before the first slash is a domain when it looks like a host."""
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        domain, path = DEFAULT_DOMAIN, name
    else:
        domain, path = first, rest
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = OFFICIAL + path
    return domain, path
