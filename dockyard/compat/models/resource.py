"""What docker-py's objects have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from dockyard.compat.client import DockerClient


class Model:
    """Something that the engine has; `attrs` is what the engine says about it, until `reload` as of the last time."""

    id_attribute = "Id"

    def __init__(self, attrs: dict[str, Any], client: DockerClient, collection: Any = None) -> None:
        self.attrs = attrs
        self.client = client
        self.collection = collection

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.short_id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.id == other.id

    def __hash__(self) -> int:
        return hash(f"{type(self).__name__}:{self.id}")

    @property
    def id(self) -> str:
        """Its ID."""
        return str(self.attrs[self.id_attribute])

    @property
    def short_id(self) -> str:
        """The first characters of its ID."""
        return self.id[:12]

    def reload(self) -> None:
        """Ask the engine again."""
        self.attrs = self.collection.get(self.id).attrs


T = TypeVar("T", bound=Model)


class Collection(Generic[T]):
    """Everything of one kind that the engine has."""

    model: type[T]

    def __init__(self, client: DockerClient) -> None:
        self.client = client

    def prepare_model(self, attrs: dict[str, Any]) -> T:
        """An object of what the engine says."""
        return self.model(attrs, self.client, self)
