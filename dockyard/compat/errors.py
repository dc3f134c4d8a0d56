"""docker-py's errors, and the way from ours to them."""

from __future__ import annotations

from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from dockyard.client import errors as own

if TYPE_CHECKING:
    from collections.abc import Iterator


class DockerException(Exception):  # docker-py's name
    """The base of all others."""


class Response(NamedTuple):
    """As much of an answer as programs ask an APIError for."""

    status_code: int
    reason: str
    url: str = ""


class APIError(DockerException):
    """The engine refused. `explanation` is in its words."""

    def __init__(self, message: Any, response: Response | None = None, explanation: str | None = None) -> None:
        super().__init__(message)
        self.response = response
        self.explanation = explanation

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.response, self.explanation)

    def __str__(self) -> str:
        if self.response is None:
            return str(self.args[0])
        side = "Client" if self.is_client_error() else "Server"
        said = f' ("{self.explanation}")' if self.explanation else ""
        return f"{self.status_code} {side} Error: {self.response.reason}{said}"

    @property
    def status_code(self) -> int | None:
        """HTTP's status; None when there was no answer."""
        return None if self.response is None else self.response.status_code

    def is_error(self) -> bool:
        """Whether the engine refused."""
        return self.is_client_error() or self.is_server_error()

    def is_client_error(self) -> bool:
        """Whether the request was wrong."""
        return 400 <= (self.status_code or 0) < 500

    def is_server_error(self) -> bool:
        """Whether the engine failed."""
        return 500 <= (self.status_code or 0) < 600


class NotFound(APIError):
    """There is no such object."""


class ImageNotFound(NotFound):
    """There is no such image."""


class InvalidVersion(DockerException):
    """The engine's API is too old for this."""


class InvalidRepository(DockerException):
    """An image's name cannot be one."""


class InvalidConfigFile(DockerException):
    """The docker configuration cannot be read."""


class InvalidArgument(DockerException):
    """An argument cannot be right."""


class TLSParameterError(DockerException):
    """The arguments of a TLSConfig are wrong."""


class NullResource(DockerException, ValueError):
    """An ID or name is missing."""


class Unreachable(DockerException, ConnectionError):
    """No engine answers; with docker-py this is requests' ConnectionError."""


class TimedOut(DockerException, TimeoutError):
    """The engine did not answer in time; with docker-py this is requests' ReadTimeout."""


class ContainerError(DockerException):
    """A command ended with a status other than 0."""

    def __init__(self, container: Any, exit_status: int, command: Any, image: Any, stderr: bytes | None) -> None:
        self.container = container
        self.exit_status = exit_status
        self.command = command
        self.image = image
        self.stderr = stderr
        said = f": {stderr!r}" if stderr is not None else ""
        super().__init__(f"Command '{command}' in image '{image}' returned non-zero exit status {exit_status}{said}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.container, self.exit_status, self.command, self.image, self.stderr)


class BuildError(DockerException):
    """A build went wrong; `build_log` has what it said, as the engine's messages."""

    def __init__(self, reason: str, build_log: Any) -> None:
        super().__init__(reason)
        self.msg = reason
        self.build_log = build_log


class ImageLoadError(DockerException):
    """An archive could not be loaded."""


_NO_IMAGE = ("no such image", "not found: does not exist or no pull access", "repository does not exist")


def of(error: own.ClientError) -> DockerException:
    """The error of docker-py's for one of ours."""
    if isinstance(error, own.APIError):
        kind: type[APIError] = APIError
        if error.status == 404:
            said = error.message.lower()
            kind = ImageNotFound if any(text in said for text in _NO_IMAGE) else NotFound
        reason = HTTPStatus(error.status).phrase if error.status in HTTPStatus._value2member_map_ else ""
        return kind(error.message, Response(error.status, reason), error.message)
    if isinstance(error, own.TimedOut):
        return TimedOut(str(error))
    if isinstance(error, own.Unreachable):
        return Unreachable(str(error))
    return DockerException(str(error))


@contextmanager
def translated() -> Iterator[None]:
    """Our errors as docker-py's."""
    try:
        yield
    except own.ClientError as error:
        raise of(error) from error
