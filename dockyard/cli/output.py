"""How results are shown: tables, `--format` templates, sizes and ages in Docker's words."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Row = dict[str, Any]


def table(rows: list[list[str]], *, narrowest: int = 10) -> None:
    """Print rows as aligned columns, the way Docker's tables are: three spaces apart, and at least `narrowest` wide."""
    widths = [max(narrowest, 3 + max(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("".join(cells) + row[-1])
    print("\n".join(lines))


def rows(found: Iterable[Row], form: str, columns: dict[str, str], headings: dict[str, str] | None = None) -> None:
    """Print each row by `form`: a table of `columns` (field: heading) when empty or "table", JSON, or a template."""
    if not form or form == "table":
        listed = [[str(row[name]) for name in columns] for row in found]
        table([list(columns.values()), *listed])
        return
    if form == "json":
        import json

        for row in found:
            plain = {key: value for key, value in sorted(row.items()) if not callable(value)}
            print(json.dumps(plain, separators=(",", ":"), ensure_ascii=False))
        return
    from dockyard.cli.template import Template

    as_table = form.startswith("table ")
    text = form.removeprefix("table ").replace("\\t", "\t").replace("\\n", "\n")
    template = Template(text)
    lines = [template.render(row) for row in found]
    if not as_table:
        for line in lines:
            print(line)
        return
    known = _Headings(columns, headings or {})
    table([line.split("\t") for line in [template.render(known), *lines]])


class _Headings(dict):  # type: ignore[type-arg]  # of anything, for the template
    """What a table's template is rendered with for its first line."""

    def __init__(self, columns: dict[str, str], more: dict[str, str]) -> None:
        super().__init__({**columns, **more, "Label": lambda name: name})

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return name.upper()


def check(form: str) -> None:
    """Raise TemplateError for a template that cannot be parsed, before anything is asked or done."""
    if "{{" in form:
        from dockyard.cli.template import Template

        Template(form)


def objects(found: list[Any], form: str) -> None:
    """Print what `inspect` found: indented JSON, or each by a template."""
    if not form or form == "json":
        import json

        if form:
            for item in found:
                print(json.dumps(item, separators=(",", ":"), ensure_ascii=False))
        else:
            print(json.dumps(found, indent=4, ensure_ascii=False))
        return
    from dockyard.cli.template import Template, TemplateError

    template = Template(form)
    for item in found:
        try:
            print(template.render(item))
        except TemplateError:
            print()  # as Docker does
            raise


def inspected(found: list[Any], failures: list[str], form: str) -> int:
    """Print what `inspect` found, then what it did not find; the exit status."""
    import sys

    if found or not form:
        objects(found, form)
    sys.stdout.flush()
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def size(amount: float, digits: int = 3) -> str:
    """1234567 as 1.23MB."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    index = 0
    while amount >= 1000 and index < len(units) - 1:
        amount /= 1000
        index += 1
    return _shortest(amount, digits) + units[index]


def binary_size(amount: float) -> str:
    """1536 as 1.5KiB."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    index = 0
    while amount >= 1024 and index < len(units) - 1:
        amount /= 1024
        index += 1
    return _shortest(amount, 4) + units[index]


def _shortest(amount: float, digits: int) -> str:
    text = f"{amount:.{digits}g}"
    return text if "e" not in text else str(int(amount))


def age(seconds: float) -> str:
    """How long, in Docker's words: "3 minutes", "About an hour"."""
    seconds = int(max(seconds, 0))
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if seconds == 1 else f"{seconds} seconds"
    minutes, hours = seconds // 60, int(seconds / 3600 + 0.5)
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    if hours < 24 * 7 * 2:
        return f"{days} days"
    if hours < 24 * 30 * 2:
        return f"{days // 7} weeks"
    return f"{days // 30} months" if hours < 24 * 365 * 2 else f"{days // 365} years"


def since(moment: float) -> str:
    """How long ago a moment (seconds since 1970) was."""
    return age(time.time() - moment) + " ago"


def moment(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time; 0.0 for Go's zero time."""
    if not text or text.startswith("0001-"):
        return 0.0
    from datetime import datetime

    whole, dot, fraction = text.partition(".")
    digits = fraction[:-1] if fraction.endswith("Z") else fraction.partition("+")[0].partition("-")[0]
    if dot:  # Python takes six digits, Go gives nine
        text = f"{whole}.{digits[:6].ljust(6, '0')}{fraction[len(digits) :]}"
    return datetime.fromisoformat(text).timestamp()


def local_time(when: float) -> str:
    """A moment as Docker's CreatedAt columns show it: 2024-01-02 03:04:05 +0000 UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(when))


def ellipsis(text: str, length: int) -> str:
    """`text` cut to `length` letters, the last one then being …."""
    return text if len(text) <= length else text[: length - 1] + "…"
