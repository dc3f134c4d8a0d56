"""A project as a picture: its services in the order in which they start, what they depend on, and what they use."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from dockyard.compose.model.project import scale_of
from dockyard.compose.plan.order import dependencies

if TYPE_CHECKING:
    from dockyard.compose.model.project import Project

Tree = dict[str, Any]

_WHEN = {
    "service_started": "started",
    "service_healthy": "healthy",
    "service_completed_successfully": "completed",
}


def ranks(project: Project) -> list[list[str]]:
    """The services in ranks: each depends only on those of ranks before its own."""
    left = dependencies(project)
    found: list[list[str]] = []
    while left:
        ready = sorted(name for name, others in left.items() if not others & left.keys())
        if not ready:
            return [*found, sorted(left)]
        found.append(ready)
        for name in ready:
            del left[name]
    return found


def facts(project: Project, name: str) -> list[str]:
    """What there is to say of a service, a line each."""
    service = project.services[name]
    found = [project.image_of(name) + (" (built here)" if "build" in service else "")]
    count = scale_of(service)
    if count != 1:
        found.append(f"{count} containers")
    for port in service.get("ports") or ():
        host = f"{port['host_ip']}:" if port.get("host_ip") else ""
        found.append(f"port {host}{port.get('published') or 'any'} → {port['target']}/{port.get('protocol', 'tcp')}")
    for mount in service.get("volumes") or ():
        source = mount.get("source") or "anonymous"
        found.append(
            f"{mount.get('type')} {source} → {mount['target']}" + (" (read only)" if mount.get("read_only") else "")
        )
    networks = [key for key in service.get("networks") or () if key != "default"]
    if networks:
        found.append(f"network{'s' if len(networks) > 1 else ''} {', '.join(networks)}")
    if service.get("network_mode"):
        found.append(f"network mode {service['network_mode']}")
    return found


def as_text(project: Project) -> str:
    """Services as a list of ranks, each with arrows to what it waits for."""
    lines = [f"{project.name}"]
    for rank in ranks(project):
        for name in rank:
            lines += ["", f"● {name}"]
            lines += [f"│   {fact}" for fact in facts(project, name)]
            for other, dependency in sorted((project.services[name].get("depends_on") or {}).items()):
                when = _WHEN.get(dependency.get("condition", ""), dependency.get("condition", ""))
                restart = ", restarted with it" if dependency.get("restart") else ""
                lines.append(f"└─▶ {other} ({when}{restart})")
    return "\n".join(lines) + "\n"


def as_dot(project: Project) -> str:
    """For Graphviz."""

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    lines = [f"digraph {quoted(project.name)} {{", "  layout=dot;", "  node [shape=box style=rounded];"]
    for name in sorted(project.services):
        label = "\\n".join([name, *facts(project, name)]).replace('"', '\\"')
        lines.append(f'  {quoted(name)} [label="{label}"];')
    for name, service in sorted(project.services.items()):
        for other, dependency in sorted((service.get("depends_on") or {}).items()):
            when = _WHEN.get(dependency.get("condition", ""), "")
            lines.append(f"  {quoted(name)} -> {quoted(other)} [label={quoted(when)}];")
    return "\n".join([*lines, "}"]) + "\n"


LETTER, LINE, PADDING, GAP_X, GAP_Y = 7.2, 18, 12, 40, 60


def as_svg(project: Project) -> str:
    """A picture: ranks from top to bottom, arrows from services to what they wait for."""
    boxes: dict[str, tuple[float, float, float, float]] = {}
    texts = {name: [name, *facts(project, name)] for name in project.services}
    top: float = GAP_Y / 2
    widest: float = 0
    rows = ranks(project)
    sizes = {
        name: (max(len(line) for line in lines) * LETTER + 2 * PADDING, len(lines) * LINE + 2 * PADDING)
        for name, lines in texts.items()
    }
    widths = [sum(sizes[name][0] for name in row) + GAP_X * (len(row) + 1) for row in rows]
    widest = max(widths, default=0)
    for row, width in zip(rows, widths, strict=True):
        left = (widest - width) / 2 + GAP_X
        for name in row:
            boxes[name] = (left, top, *sizes[name])
            left += sizes[name][0] + GAP_X
        top += max(sizes[name][1] for name in row) + GAP_Y
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{widest:.0f}" height="{top:.0f}" '
            'font-family="monospace" font-size="12">'
        ),
        f"<title>{escape(project.name)}</title>",
        (
            '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0,0 L10,5 L0,10 z"/></marker></defs>'
        ),
    ]
    for name in project.services:
        parts += _box(texts[name], boxes[name])
    for name, service in sorted(project.services.items()):
        for other, dependency in sorted((service.get("depends_on") or {}).items()):
            if other in boxes:
                parts += _arrow(boxes[name], boxes[other], _WHEN.get(dependency.get("condition", ""), ""))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _box(lines: list[str], box: tuple[float, float, float, float]) -> list[str]:
    left, top, width, height = box
    found = [
        (
            f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" rx="6" fill="#eef4fb" '
            'stroke="#336"/>'
        )
    ]
    for index, line in enumerate(lines):
        weight = ' font-weight="bold"' if index == 0 else ""
        y = top + PADDING + LINE * (index + 0.75)
        found.append(f'<text x="{left + PADDING:.0f}" y="{y:.0f}"{weight}>{escape(line)}</text>')
    return found


def _arrow(start: tuple[float, float, float, float], end: tuple[float, float, float, float], label: str) -> list[str]:
    x1, y1 = start[0] + start[2] / 2, start[1]
    x2, y2 = end[0] + end[2] / 2, end[1] + end[3]
    middle = (y1 + y2) / 2
    found = [
        (
            f'<path d="M{x1:.0f},{y1:.0f} C{x1:.0f},{middle:.0f} {x2:.0f},{middle:.0f} {x2:.0f},{y2:.0f}" fill="none" '
            'stroke="#336" marker-end="url(#arrow)"/>'
        )
    ]
    if label:
        found.append(
            f'<text x="{(x1 + x2) / 2 + 4:.0f}" y="{middle:.0f}" fill="#336" font-style="italic">{escape(label)}</text>'
        )
    return found
