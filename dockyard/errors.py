"""What can go wrong, as types with an audience: the API maps each to one HTTP status, the CLI prints the message."""


class DockyardError(Exception):
    """The base of every error that is meant to be shown; `message` says what was asked, what is wrong, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NotFound(DockyardError):
    """The named object does not exist."""


class Conflict(DockyardError):
    """The request cannot be done in the object's present state, or its name is taken."""


class InvalidParameter(DockyardError):
    """The request itself is wrong and will be wrong again."""


class Forbidden(DockyardError):
    """The request is understood and not allowed."""


class Unauthorized(DockyardError):
    """Credentials are missing or wrong."""


class Unavailable(DockyardError):
    """Something needed is not there at the moment; a later try may succeed."""


class SystemFailure(DockyardError):
    """The host, the kernel or the engine failed at something that should have worked."""


class NotModified(DockyardError):
    """The object is already in the wanted state; nothing was done."""


class NotImplementedHere(DockyardError):
    """The engine, the kernel or the chosen driver cannot do this."""


class Gone(DockyardError):
    """The object existed and has been removed while the request waited."""


def words(error: BaseException) -> str:
    """What somebody is told of `error`: its message; of the kernel's, as Docker has them, `path: no such file or …`."""
    if isinstance(error, OSError) and error.strerror and type(error).__str__ is OSError.__str__:
        reason = error.strerror[:1].lower() + error.strerror[1:]
        return f"{error.filename}: {reason}" if error.filename else reason
    return str(error) or type(error).__name__
