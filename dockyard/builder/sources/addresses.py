"""URLs as they may be shown: without what lets someone in."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

MASK = "xxxxx"


def redacted(url: str) -> str:
    """A URL with its user's name and password masked (BuildKit, util/urlutil)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    if "://" not in url or not (parts.username or parts.password):
        return url
    login = (MASK if parts.username else "") + (f":{MASK}" if parts.password else "")
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}"))
