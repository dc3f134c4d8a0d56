"""What `bake --print` and `--list` write: Go's JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from dockyard.bake.read import Plan, Project
from dockyard.bake.target import printed
from dockyard.bake.values import Value, kind_of, to_json, to_string


def plan_text(plan: Plan) -> str:
    """The targets and groups of a plan."""
    document: dict[str, Any] = {}
    groups = {
        name: {
            **({"description": group["description"]} if group.get("description") else {}),
            "targets": group.get("targets") or None,
        }
        for name, group in sorted(plan.groups.items())
    }
    if groups:
        document["group"] = groups
    document["target"] = {name: printed(target) for name, target in sorted(plan.targets.items())}
    return _indented(document)


def _indented(document: Any) -> str:
    text = json.dumps(document, indent=2, ensure_ascii=False, default=_number)
    # as Go's encoder, which thinks of HTML
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text + "\n"


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else str(value)


def list_text(project: Project, kind: str, *, as_json: bool) -> str:
    """The targets, or the variables."""
    if kind == "targets":
        rows = [
            (name, str(group.get("description") or ", ".join(group.get("targets") or ())))
            for name, group in sorted(project.groups.items())
        ]
        rows += [(name, str(target.get("description") or "")) for name, target in sorted(project.targets.items())]
        if as_json:
            made = [
                {
                    "name": name,
                    **({"description": about} if about else {}),
                    **({"group": True} if name in project.groups else {}),
                }
                for name, about in rows
            ]
            return _indented(made)
        default = [row for row in rows if row[0] == "default"]
        return _table([("TARGET", "DESCRIPTION"), *default, *(row for row in rows if row[0] != "default")])
    found = project.definition.variables() if project.definition is not None else []
    if as_json:
        made = [
            {
                "name": name,
                **({"description": about} if about else {}),
                **({"type": type_name} if type_name else {}),
                **({"value": _shown(value)} if value is not None else {}),
            }
            for name, type_name, value, about in found
        ]
        return _indented(made)
    cells = [
        (name, type_name, "<null>" if value is None else _shown(value), str(about or ""))
        for name, type_name, value, about in found
    ]
    return _table([("VARIABLE", "TYPE", "VALUE", "DESCRIPTION"), *cells])


def _shown(value: Value) -> str:
    return to_json(value) if kind_of(value) in ("tuple", "object") else to_string(value)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) + 1 for column in range(len(rows[0]) - 1)]
    lines = ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1] for row in rows]
    return "".join(f"{line}\n" for line in lines)
