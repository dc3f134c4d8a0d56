"""One request on its way through the registry: what is known of it so far."""

import time
import uuid

from dockyard.registry.auth.model import Actor
from dockyard.registry.routes import Target
from dockyard.web import Request


class Call:
    """A request, who makes it, and what about."""

    __slots__ = ("_id", "actor", "began", "peer", "request", "target")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.began = time.monotonic()
        self.peer = request.connection.peer  # while it is there
        self.actor = Actor()
        self.target: Target | None = None
        self._id = ""

    @property
    def id(self) -> str:
        """Names it in logs and events."""
        if not self._id:
            self._id = str(uuid.uuid4())
        return self._id
