"""How results are shown: tables, `--format` templates, sizes and ages in Docker's words."""

from __future__ import annotations

import time

from dockyard.cli.errors import Failure
from dockyard.gotemplate import go_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from dockyard.gotemplate.template import Record, Template

    Row = dict[str, Any]


def table(rows: list[list[str]], *, narrowest: int = 10) -> None:
    """Print rows as aligned columns, the way Docker's tables are: three spaces apart, and at least `narrowest` wide."""
    widths = [max(narrowest, 3 + max(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("".join(cells) + row[-1])
    print("\n".join(lines))


def rows(
    found: Iterable[Row],
    form: str,
    columns: dict[str, str],
    headings: dict[str, str] | None = None,
    kind: str = "*formatter.Context",
) -> None:
    """Print each row by `form`: a table of `columns` (field: heading) when empty or "table", JSON, or a template.

    A function among a row's values is a method of templates and no field. `headings` are those of further fields;
    `kind` is the type that Docker's error messages name. Raises Failure.
    """
    if not form or form == "table":
        listed = [[str(row[name]) for name in columns] for row in found]
        table([list(columns.values()), *listed])
        return
    if form == "json":
        for row in found:
            print(row_json(row))
        return
    from dockyard.gotemplate.template import ExecutionError

    as_table = form.startswith("table")
    template = parsed(form.removeprefix("table") if as_table else form)
    try:
        lines = [template.render(record(row, kind)) for row in found]
    except ExecutionError as error:
        raise Failure(f"template parsing error: {error}") from None
    if not as_table:
        for line in lines:
            print(line)
        return
    known = record({**columns, **(headings or {}), "Label": lambda name: name}, kind)
    cells = "\n".join([template.render(known, heading=True), *lines])
    table([line.split("\t") for line in cells.split("\n")])


def record(row: Row, kind: str) -> Record:
    """A row for templates: the error for a field that it has not says that `kind` has none."""
    from dockyard.gotemplate.template import Record

    made = Record((name, value) for name, value in row.items() if not callable(value))
    made.type, made.methods = kind, {name: value for name, value in row.items() if callable(value)}
    return made


def parsed(form: str, code: int = 1, *, name: str = "") -> Template:
    """A template, called `name` in what may be wrong with it. Raises Failure with `code`.

    In the templates of lists, \\t and \\n are a tab and a new line.
    """
    from dockyard.gotemplate.template import Template, TemplateError

    try:
        text = form.strip(" ").replace("\\t", "\t").replace("\\n", "\n") if code == 1 else form
        return Template(text, name)
    except TemplateError as error:
        raise Failure(f"template parsing error: {error}", code) from None


def row_json(row: Row) -> str:
    """A row's fields as Go's JSON of them: sorted, and without letters that mean something in HTML."""
    fields = {key: value for key, value in sorted(row.items()) if not callable(value)}
    return go_json.without_html(go_json.compact(fields))


def check(form: str) -> None:
    """Raise Failure for a template of `inspect` that cannot be parsed, before anything is asked or done."""
    if "{{" in form:
        parsed(form, 64)


def objects(found: list[Any], form: str, failures: list[str], *, escaped: bool = False) -> None:
    """Print what `inspect` found: indented JSON, or each by a template; what goes wrong is added to `failures`.

    `escaped` JSON is what Go makes of our own data; what the engine says stays as it is.
    """
    if not form or form == "json":
        text = go_json.compact(found) if form else go_json.indented(found)
        print(go_json.without_html(text) if escaped else text)
        return
    from dockyard.gotemplate.template import ExecutionError

    template = parsed(form, 64)
    lines = []
    for item in found:
        try:
            lines.append(template.render(item) + "\n")
        except ExecutionError as error:
            failures.append(f"template parsing error: {error}")
    print("".join(lines) or "\n", end="")


def one(item: dict[str, Any], form: str, *, name: str = "", kind: str) -> None:
    """Print one object as JSON or by a template. Raises Failure."""
    import json

    if form == "json":
        print(json.dumps(item, separators=(",", ":"), ensure_ascii=False))
        return None
    from dockyard.gotemplate.template import ExecutionError

    if form.strip() == "{{json .}}":
        return one(item, "json", kind=kind)
    try:
        print(parsed(form, 64, name=name).render(record(item, kind)))
    except ExecutionError as error:
        print()
        raise Failure(str(error)) from None


def inspected(found: list[Any], failures: list[str], form: str, *, escaped: bool = False) -> int:
    """Print what `inspect` found, then what it did not find; the exit status."""
    import sys

    objects(found, form, failures, escaped=escaped)
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


def rfc3339(when: float) -> str:
    """A moment, to the second, in local time: 2024-01-02T03:04:05Z."""
    moment = time.localtime(when)
    zone = time.strftime("%z", moment)
    return time.strftime("%Y-%m-%dT%H:%M:%S", moment) + ("Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}")


def exact_time(text: str) -> str:
    """An RFC 3339 time as Go prints one: 2024-01-02 03:04:05.123456789 +0000 UTC."""
    when, dot, rest = text.partition(".")
    digits = rest.rstrip("Z").partition("+")[0].partition("-")[0].rstrip("0")
    day, _, clock = when.removesuffix("Z").partition("T")
    zone = text[19 + len(rest.rstrip("Z")) * bool(dot) :].lstrip(".")
    offset = zone if zone and zone[0] in "+-" else ""
    return f"{day} {clock[:8]}{'.' + digits if dot and digits else ''} " + (
        f"{offset.replace(':', '')} {offset.replace(':', '')}" if offset else "+0000 UTC"
    )


def ellipsis(text: str, length: int) -> str:
    """`text` cut to `length` letters, the last one then being …."""
    return text if len(text) <= length else text[: length - 1] + "…"
