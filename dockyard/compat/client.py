"""docker-py's DockerClient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dockyard.client.address import find
from dockyard.compat.api import APIClient
from dockyard.compat.errors import translated
from dockyard.compat.models.containers import ContainerCollection
from dockyard.compat.models.images import ImageCollection
from dockyard.compat.models.networks import NetworkCollection
from dockyard.compat.models.volumes import VolumeCollection
from dockyard.compat.utils import kwargs_from_env

if TYPE_CHECKING:
    from collections.abc import Mapping


class DockerClient:
    """An engine; `api` has the lower words."""

    def __init__(self, *given: Any, **options: Any) -> None:
        """See APIClient: base_url, version, timeout, tls."""
        self.api = APIClient(*given, **options)
        self.containers = ContainerCollection(self)
        self.images = ImageCollection(self)
        self.networks = NetworkCollection(self)
        self.volumes = VolumeCollection(self)

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None, **options: Any) -> DockerClient:
        """The engine that the environment names."""
        return cls(**{**kwargs_from_env(environment), **options})

    @classmethod
    def from_context(cls, name: str = "", **options: Any) -> DockerClient:
        """The engine of a docker context."""
        with translated():
            address = find(context=name)
        from dockyard.compat.tls import TLSConfig

        if address.tls is not None:
            files = address.tls
            pair = (files.cert, files.key) if files.cert else None
            options.setdefault("tls", TLSConfig(pair, files.ca, files.verify))
        return cls(str(address), **options)

    def __enter__(self) -> DockerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def events(self, *given: Any, **options: Any) -> Any:
        """What happens, as it does: since, until, filters, decode."""
        return self.api.events(*given, **options)

    def df(self) -> Any:
        """What takes space."""
        return self.api.df()

    def info(self) -> Any:
        """How the engine is set up."""
        return self.api.info()

    def login(self, *given: Any, **options: Any) -> Any:
        """Check a login with a registry and use it from here on: username, password, registry."""
        return self.api.login(*given, **options)

    def ping(self) -> bool:
        """Whether the engine answers."""
        return self.api.ping()

    def version(self, *given: Any, **options: Any) -> Any:
        """What the engine is."""
        return self.api.version(*given, **options)

    def close(self) -> None:
        """Close the connections that are kept."""
        self.api.close()


from_env = DockerClient.from_env
