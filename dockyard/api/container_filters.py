"""The filters of GET /containers/json and POST /containers/prune."""

import re
from collections.abc import Callable
from contextlib import suppress

from dockyard import timestamps
from dockyard.api.services import Services
from dockyard.engine.containers.container import Container
from dockyard.errors import InvalidParameter, NotFound
from dockyard.timestamps import NEVER, nanoseconds

Filters = dict[str, list[str]]
Matches = Callable[[Container], bool]

STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
HEALTH = ("none", "starting", "healthy", "unhealthy")
LIST_FILTERS = frozenset(
    """
    ancestor before exited expose health id is-task isolation label name network publish since status volume
    """.split()
)
PRUNE_FILTERS = frozenset({"until", "label", "label!"})


def check_names(filters: Filters, known: frozenset[str]) -> None:
    """Raises InvalidParameter for a filter that is not `known`."""
    for name in filters:
        if name not in known:
            raise InvalidParameter(f"invalid filter '{name}'")


def has_label(labels: dict[str, str], wanted: str) -> bool:
    """Whether there is a label `wanted`, KEY or KEY=VALUE."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def prune_matcher(filters: Filters) -> Matches:
    """Which containers a prune may remove. Raises InvalidParameter."""
    check_names(filters, PRUNE_FILTERS)
    times = filters.get("until", [])
    if len(times) > 1:
        raise InvalidParameter("more than one until filter specified")
    until = timestamps.moment(times[0]) if times else None

    def matches(container: Container) -> bool:
        labels = container.config.labels or {}
        if until is not None and nanoseconds(container.record.created) > until:
            return False
        if not all(has_label(labels, value) for value in filters.get("label", [])):
            return False
        return not any(has_label(labels, value) for value in filters.get("label!", []))

    return matches


class ListMatcher:
    """What a list's filters let through. Raises InvalidParameter, NotFound when it is made of what can't be."""

    def __init__(self, services: Services, filters: Filters) -> None:
        check_names(filters, LIST_FILTERS)
        self._filters = filters
        self._check_values()
        self._exited = {self._number(value) for value in filters.get("exited", [])}
        self._ancestors = _images(services, filters.get("ancestor", [])) if "ancestor" in filters else None
        find = services.containers.get
        self._before = [find(name).record.created for name in filters.get("before", [])]
        self._since = [find(name).record.created for name in filters.get("since", [])]
        self._publish, self._expose = _ports(filters, "publish"), _ports(filters, "expose")
        self._is_task = [_truth(value) for value in filters.get("is-task", [])]

    def _check_values(self) -> None:
        for value in self._filters.get("status", []):
            if value not in STATES:
                raise InvalidParameter(
                    f"invalid filter 'status={value}': invalid value for state ({value}): "
                    f"must be one of {', '.join(STATES)}"
                )
        for value in self._filters.get("health", []):
            if value not in HEALTH:
                raise InvalidParameter(
                    f"invalid filter 'health={value}': invalid value for health ({value}): "
                    f"must be one of {', '.join(HEALTH)}"
                )

    @staticmethod
    def _number(value: str) -> int:
        try:
            return int(value)
        except ValueError:
            raise InvalidParameter(
                f"invalid filter 'exited={value}': strconv.Atoi: parsing \"{value}\": invalid syntax"
            ) from None

    @property
    def wants_stopped(self) -> bool:
        """Whether stopped containers are asked for, too."""
        return "status" in self._filters

    def __call__(self, container: Container) -> bool:
        record, state = container.record, container.state
        if not all(record.created < created for created in self._before):
            return False
        if not all(record.created > created for created in self._since):
            return False
        if self._exited and (state.exit_code not in self._exited or state.running or state.started_at == NEVER):
            return False
        if self._ancestors is not None and record.image_id not in self._ancestors:
            return False
        if any(task for task in self._is_task):
            return False
        if not all(has_label(record.config.labels or {}, value) for value in self._filters.get("label", [])):
            return False
        return self._names_fit(container) and self._ports_fit(container)

    def _names_fit(self, container: Container) -> bool:
        record, state = container.record, container.state
        networks = record.networks
        tests: dict[str, Callable[[str], bool]] = {
            "id": lambda value: _fits(value, record.id),
            "name": lambda value: _fits(value, record.name) or _fits(value, "/" + record.name),
            "status": lambda value: state.status == value,
            "health": lambda value: (state.health.status if state.health else "none") == value,
            "isolation": lambda value: value == "default",
            "network": lambda value: (
                value in networks or any(settings.network_id.startswith(value) for settings in networks.values())
            ),
            "volume": lambda value: any(
                value in (mount.destination, mount.name or mount.source) for mount in record.mounts
            ),
        }
        return all(
            any(tests[name](value) for value in values)
            for name, values in self._filters.items()
            if values and name in tests
        )

    def _ports_fit(self, container: Container) -> bool:
        if not self._publish and not self._expose:
            return True
        published = container.record.sandbox.ports if container.record.sandbox else {}
        if not container.state.running:
            published = {}
        for port in {*published, *(container.config.exposed_ports or {})}:
            number, _, protocol = port.partition("/")
            if f"{number}/{protocol or 'tcp'}" in self._expose:
                return True
            if any(f"{host}/{protocol or 'tcp'}" in self._publish for _, host in published.get(port) or []):
                return True
        return False


def _fits(pattern: str, text: str) -> bool:
    try:
        return pattern == text or re.search(pattern, text) is not None
    except re.error:
        return False


def _truth(value: str) -> bool:
    if value.lower() in ("1", "true"):
        return True
    if value.lower() in ("0", "false"):
        return False
    raise InvalidParameter(f"invalid filter 'is-task={value}'")


def _images(services: Services, names: list[str]) -> set[str]:
    """The images of those names, and all that were built on them."""
    found: set[str] = set()
    for name in names:
        with suppress(NotFound, InvalidParameter):
            found.add(services.images.resolve(name))
    grown = True
    while grown:
        children = {image.id for image in services.images.all() if image.parent in found} - found
        grown = bool(children)
        found |= children
    return found


def _ports(filters: Filters, kind: str) -> set[str]:
    """80, 80/udp, 8000-8010/tcp as {"80/tcp", …}."""
    found = set()
    for value in filters.get(kind, []):
        numbers, _, protocol = value.partition("/")
        first, _, last = numbers.partition("-")
        for number in (first, last or first):
            if not number.isdecimal() or int(number) > 65535:
                why = "value out of range" if number.isdecimal() else "invalid syntax"
                raise InvalidParameter(
                    f'error while looking up for {kind} {value}: strconv.ParseUint: parsing "{number}": {why}'
                )
        found |= {f"{number}/{protocol or 'tcp'}" for number in range(int(first), int(last or first) + 1)}
    return found
