"""A client's source policies as it sends them."""

from __future__ import annotations

from collections.abc import Iterable

from dockyard.builder.source_policy import Constraint, Rule, SourcePolicy
from dockyard.buildkit import wire_pb2 as wire
from dockyard.errors import InvalidParameter


def policy_of(messages: Iterable[wire.SourcePolicy]) -> SourcePolicy:
    """The policies. Raises InvalidParameter."""
    return SourcePolicy([[_rule(rule) for rule in message.rules] for message in messages])


def _rule(message: wire.SourceRule) -> Rule:
    if not message.HasField("selector"):
        raise InvalidParameter("invalid nil selector in policy")
    selector, updates = message.selector, message.updates
    return Rule(
        message.action,
        selector.identifier,
        selector.match_type,
        tuple(Constraint(one.key, one.value, one.condition) for one in selector.constraints),
        (updates.identifier, dict(updates.attrs)) if message.HasField("updates") else None,
    )
