"""What there is of a project: its containers, as the engine lists them."""

from __future__ import annotations

from dockyard.compose.plan import labels

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from dockyard.compose.model.project import Project


class Observed:
    """A container of a project. `row` is what the engine's list says of it."""

    def __init__(self, row: dict[str, Any], separator: str = "-") -> None:
        self.row = row
        self.id = str(row["Id"])
        self.labels: dict[str, str] = row.get("Labels") or {}
        self.state = str(row.get("State", ""))
        self.separator = separator

    @property
    def name(self) -> str:
        """Its name; links' names for it are left alone."""
        names = [str(name) for name in self.row.get("Names") or ()]
        own = [name for name in names if name.rfind("/") == 0] or names
        return own[0].removeprefix("/") if own else self.id[:12]

    @property
    def service(self) -> str:
        """The key of its service."""
        return self.labels.get(labels.SERVICE, "")

    @property
    def project(self) -> str:
        """Its project's name."""
        return self.labels.get(labels.PROJECT, "")

    @property
    def number(self) -> int:
        """Which of its service's containers it is, from 1 on; 0 for one that `run` made."""
        text = self.labels.get(labels.NUMBER, "")
        return int(text) if text.isdigit() else 0

    @property
    def one_off(self) -> bool:
        """Whether `run` made it."""
        return self.labels.get(labels.ONE_OFF) == "True"

    @property
    def short_name(self) -> str:
        """Its name without the project's, if it is the one that it got by itself."""
        default = self.separator.join((self.project, self.service, self.labels.get(labels.NUMBER, "")))
        return self.name[len(self.project) + 1 :] if self.name == default else self.name

    def orphaned(self, project: Project) -> bool:
        """Whether no service of the project is behind it (any more)."""
        if self.one_off:
            return self.state in ("exited", "dead")
        return self.service not in project.services and self.service not in project.disabled


def of_services(containers: Iterable[Observed], names: Iterable[str]) -> list[Observed]:
    """Those of the services `names`."""
    wanted = set(names)
    return [one for one in containers if one.service in wanted]


def in_order(containers: Iterable[Observed]) -> list[Observed]:
    """By service, number and name, those of `run` last."""
    return sorted(containers, key=lambda one: (one.service, one.one_off, one.number, one.name))
