"""HTTP/1.1 as a server speaks it. Requests are read as Go's net/http reads them: Docker's clients are made for that.

A `Server` makes the protocol of one connection after the other; every request is given to one handler, which returns a
`StreamResponse` (or a `Response`, which has its whole body), or takes the connection over and returns `TakenOver`.
"""

from dockyard.web.connection import Server
from dockyard.web.messages import FileResponse, Request, Response, StreamResponse, TakenOver
from dockyard.web.websocket import WebSocket

__all__ = ["FileResponse", "Request", "Response", "Server", "StreamResponse", "TakenOver", "WebSocket"]
