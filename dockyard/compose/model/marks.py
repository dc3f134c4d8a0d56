"""What `!reset` and `!override` in a file take out of those that it is laid over."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from dockyard.compose.model.yaml_source import Path


def reset(tree: Any, marks: Sequence[Path], path: Path = ()) -> None:
    """Take out of `tree` what a file that is laid over it has marked."""
    if not marks:
        return
    if isinstance(tree, dict):
        for key in list(tree):
            below = (*path, key)
            if any(_matches(below, mark) for mark in marks):
                del tree[key]
            else:
                reset(tree[key], marks, below)
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            reset(item, marks, (*path, f"[{index}]"))


def _matches(path: Path, mark: Path) -> bool:
    return tuple(part for part in mark if part != "<<") == path
