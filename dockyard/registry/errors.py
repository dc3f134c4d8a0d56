"""What the registry refuses, in the specification's codes (distribution-spec, "Error Codes")."""

from collections.abc import Mapping

import msgspec

from dockyard.errors import DockyardError
from dockyard.web import Response

# code -> (status, message); the messages are those of the distribution project, which clients show
CODES = {
    "BLOB_UNKNOWN": (404, "blob unknown to registry"),
    "BLOB_UPLOAD_INVALID": (404, "blob upload invalid"),
    "BLOB_UPLOAD_UNKNOWN": (404, "blob upload unknown to registry"),
    "DIGEST_INVALID": (400, "provided digest did not match uploaded content"),
    "MANIFEST_BLOB_UNKNOWN": (400, "blob unknown to registry"),
    "MANIFEST_INVALID": (400, "manifest invalid"),
    "MANIFEST_UNKNOWN": (404, "manifest unknown"),
    "NAME_INVALID": (400, "invalid repository name"),
    "NAME_UNKNOWN": (404, "repository name not known to registry"),
    "PAGINATION_NUMBER_INVALID": (400, "invalid number of results requested"),
    "RANGE_INVALID": (416, "invalid content range"),
    "SIZE_INVALID": (400, "provided length did not match content length"),
    "TAG_INVALID": (400, "manifest tag did not match URI"),
    "UNAUTHORIZED": (401, "authentication required"),
    "DENIED": (403, "requested access to the resource is denied"),
    "UNSUPPORTED": (405, "The operation is unsupported."),
    "TOOMANYREQUESTS": (429, "too many requests"),
    "UNAVAILABLE": (503, "service unavailable"),
    "UNKNOWN": (500, "unknown error"),
}


class Refused(DockyardError):
    """A request that is not done; `code` is one of CODES."""

    def __init__(
        self,
        code: str,
        detail: object = None,
        *,
        status: int = 0,
        message: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        usual, words = CODES[code]
        super().__init__(message or words)
        self.code = code
        self.detail = detail
        self.status = status or usual
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The answer that says so."""
        return response(self.status, [self.entry()], self.headers)

    def entry(self) -> dict[str, object]:
        """One member of the list of errors."""
        found: dict[str, object] = {"code": self.code, "message": self.message}
        if self.detail is not None:
            found["detail"] = self.detail
        return found


def response(status: int, errors: list[dict[str, object]], headers: Mapping[str, str] | None = None) -> Response:
    """An answer with a list of errors."""
    body = msgspec.json.encode({"errors": errors}) + b"\n"
    return Response(status, headers, "application/json", body)
