"""docker-py's TLSConfig."""

from __future__ import annotations

from typing import Any

from dockyard.client.address import TLS
from dockyard.compat.errors import TLSParameterError


class TLSConfig:
    """The files of a TLS connection: `client_cert` is (certificate, key)."""

    def __init__(
        self,
        client_cert: tuple[str, str] | None = None,
        ca_cert: str | None = None,
        verify: bool | str | None = None,
        **_: Any,
    ) -> None:
        if client_cert is not None and len(client_cert) != 2:
            raise TLSParameterError("client_cert must be a tuple of (client certificate, key file)")
        self.cert = client_cert
        self.ca_cert = ca_cert
        self.verify = verify

    def own(self) -> TLS:
        """As our client has it."""
        certificate, key = self.cert or ("", "")
        return TLS(self.ca_cert or "", certificate, key, self.verify is not False)
