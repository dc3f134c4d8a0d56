"""What can go wrong between a client and its engine, as types.

ClientError                     every error of this package
    Unreachable                 no engine answers, or it went away
    TimedOut                    it did not answer, or what was waited for did not happen, in time
    APIError                    the engine refused; `status` is HTTP's, `message` the engine's
        BadRequest 400, Unauthorized 401, Forbidden 403, NotFound 404 (of which ImageNotFound),
        NotAllowed 405, Conflict 409, ServerError 500 and above (of which Unavailable 503)
    OperationFailed             a pull, push, load or build that had begun and went wrong (BuildFailed has its log)
    ContainerError              a command ended with a status other than 0; `result` has its output
    CredentialsError            the stored logins cannot be read, or their helper fails
    ArchiveError                an archive holds what must not be unpacked here
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ClientError(Exception):
    """The base of everything this package raises on purpose."""


class Unreachable(ClientError):
    """No engine answers, or it closed the connection before it had answered."""


class TimedOut(ClientError, TimeoutError):
    """The engine did not answer, or what was waited for did not happen, in time."""


class CredentialsError(ClientError):
    """The stored logins cannot be read, or the program that keeps them fails."""


class ArchiveError(ClientError):
    """An archive holds what must not, or cannot, be unpacked here."""


_NO_IMAGE = ("no such image", "was found but its platform")


class APIError(ClientError):
    """The engine refused: `status` is HTTP's, `message` says why in the engine's words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, self.message)

    @staticmethod
    def of(status: int, message: str) -> APIError:
        """The error of the type that belongs to `status`."""
        kind = BY_STATUS.get(status) or (ServerError if status >= 500 else APIError)
        if kind is NotFound and any(words in message.lower() for words in _NO_IMAGE):
            kind = ImageNotFound
        return kind(status, message)


class BadRequest(APIError):
    """The request is wrong and will be wrong again (400)."""


class Unauthorized(APIError):
    """Credentials are missing or wrong (401)."""


class Forbidden(APIError):
    """The request is understood and not allowed (403)."""


class NotFound(APIError):
    """There is no such object (404)."""


class ImageNotFound(NotFound):
    """There is no such image, or none for the platform that was asked for (404)."""


class NotAllowed(APIError):
    """This cannot be done to that (405)."""


class Conflict(APIError):
    """The object's present state, or a name that is taken, forbids it (409)."""


class ServerError(APIError):
    """The engine failed (500 and above)."""


class Unavailable(ServerError):
    """Something needed is not there at the moment (503)."""


BY_STATUS: dict[int, type[APIError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: NotAllowed,
    409: Conflict,
    503: Unavailable,
}


class OperationFailed(ClientError):
    """A pull, push, load or other operation with progress went wrong after it had begun."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BuildFailed(OperationFailed):
    """A build went wrong; `log` is what it had said until then."""

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.log)


class ContainerError(ClientError):
    """A command in a container ended with a status other than 0; `result` has it, with the output."""

    def __init__(self, command: object, image: str, result: Any) -> None:
        said = (result.stderr or result.stdout).decode(errors="replace").strip()
        super().__init__(f"{command!r} in {image} ended with status {result.exit_code}" + (f": {said}" if said else ""))
        self.command = command
        self.image = image
        self.result = result
        self.exit_code: int = result.exit_code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.command, self.image, self.result)
