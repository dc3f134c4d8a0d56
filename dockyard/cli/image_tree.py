"""`image ls --tree`: each image with the platforms that its index lists, and what of them is here."""

from __future__ import annotations

from dockyard.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADINGS = ("IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA")
IN_USE = "U"


def show(found: list[dict[str, Any]], *, full: bool) -> None:
    """Print `found`, the answer of /images/json?manifests=1. `full`: IDs are not shortened."""
    blocks = [_block(image, full=full) for image in found]
    lines: list[tuple[str, ...]] = [HEADINGS, *(line for block in blocks for line in block)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    spaced = any(len(block) > 1 and block[-1][0][0] in "├└" for block in blocks)
    print(_aligned(HEADINGS, widths))
    for block in blocks:
        for line in block:
            print(_aligned(line, widths))
        if spaced:
            print()


def _aligned(line: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        cell.rjust(width) if 2 <= at <= 3 else cell.ljust(width)
        for at, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]
    return "   ".join(cells).rstrip()


def _block(image: dict[str, Any], *, full: bool) -> list[tuple[str, ...]]:
    listed = image.get("Manifests") or []
    platforms = [one for one in listed if one["Kind"] == "image"]
    content = sum(one["Size"]["Content"] for one in listed)
    used = image.get("Containers", -1) > 0 or any(one["ImageData"]["Containers"] for one in platforms)
    names = sorted(name for name in image.get("RepoTags") or [] if name != "<none>:<none>") or ["<untagged>"]
    lines: list[tuple[str, ...]] = [(name, "", "", "", "") for name in names[:-1]]
    lines.append(_line(names[-1], image["Id"], image["Size"], content, used, full))
    for at, one in enumerate(platforms):
        branch = "└─ " if at == len(platforms) - 1 else "├─ "
        data, size = one["ImageData"], one["Size"]
        where = "/".join(data["Platform"].get(part) or "" for part in ("os", "architecture", "variant")).rstrip("/")
        missing = "" if one["Available"] else " (not here)"
        used = bool(data["Containers"])
        lines.append(_line(f"{branch}{where}{missing}", one["ID"], size["Total"], size["Content"], used, full))
    return lines


def _line(name: str, identifier: str, total: int, content: int, used: bool, full: bool) -> tuple[str, ...]:
    shown = identifier if full else identifier.removeprefix("sha256:")[:12]
    return (name, shown, output.size(total), output.size(content), IN_USE if used else "")
