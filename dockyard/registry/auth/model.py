"""What every way to find out who asks has in common."""

from dataclasses import dataclass
from typing import Protocol

from dockyard.registry.routes import Access
from dockyard.web import Request


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks; "" for anybody."""

    name: str = ""


class Authenticator(Protocol):
    """Decides on each request."""

    #: whether everybody may do everything
    open: bool

    async def authorize(self, request: Request, wanted: list[Access]) -> Actor:
        """Who asks. Raises Refused, with a challenge, unless they have shown that they may do what they want."""


class Everyone:
    """Nobody is asked."""

    open = True

    async def authorize(self, request: Request, wanted: list[Access]) -> Actor:
        """Anybody."""
        return Actor()
