"""A project written as YAML or JSON, as Compose writes it."""

from __future__ import annotations

from dockyard.compose.model.go_values import float_text, html_safe
from dockyard.compose.model.key_order import by_key, deep
from dockyard.compose.model.kinds import Float
from dockyard.compose.model.language import FILE_SECTIONS, SECTIONS
from dockyard.compose.model.yaml_source import Date, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dockyard.compose.model.project import Project

    Tree = dict[str, Any]


def project_tree(project: Project, form: str) -> Tree:
    """A project as a tree of plain values; `form` is "yaml" or "json"."""
    found: Tree = {"name": project.name} if project.name else {}
    for section, kind in SECTIONS.items():
        entries: dict[str, Tree] = getattr(project, section)
        if not entries and section != "services":
            continue
        if form == "json" and section == "models":
            continue
        if section in FILE_SECTIONS:
            entries = {key: _shown(section, entry) for key, entry in entries.items()}
        write = kind.yaml if form == "yaml" else kind.json
        found[section] = {key: write(entry) for key, entry in by_key(entries).items()}
    found.update(deep(project.extensions))
    return found if form == "yaml" else dict(sorted(found.items()))


def _shown(section: str, entry: Tree) -> Tree:
    """A secret's content is nobody's business; a config's is said by where it comes from."""
    if section == "secrets" or entry.get("environment"):
        return {key: item for key, item in entry.items() if key != "content"}
    return entry


def as_yaml(tree: Any) -> str:
    """YAML, two spaces a level."""
    lines: list[str] = []
    _block(tree, 0, lines)
    return "\n".join(lines) + "\n"


def as_json(tree: Any) -> str:
    """JSON, two spaces a level, keys sorted at the top."""
    from json import dumps

    return html_safe(dumps(_json_value(tree), ensure_ascii=False, indent=2))


def _json_value(value: Any) -> Any:
    if isinstance(value, Float):
        text = float_text(value, bits=32)
        return int(text) if text.lstrip("-").isdigit() else float(text)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    return [_json_value(item) for item in value] if isinstance(value, list) else value


# -- YAML


def _block(value: Any, indent: int, lines: list[str]) -> None:
    """Write a collection, line by line; a scalar as the whole document."""
    pad = " " * indent
    if isinstance(value, dict) and value:
        for key, item in value.items():
            _entry(f"{pad}{_scalar(key, key=True)}:", item, indent, lines)
    elif isinstance(value, list) and value:
        for item in value:
            _item(item, indent, lines)
    else:
        lines.append(pad + _inline(value, indent))


def _entry(head: str, value: Any, indent: int, lines: list[str]) -> None:
    if isinstance(value, (dict, list)) and value:
        lines.append(head)
        _block(value, indent + 2, lines)
        return
    text = _inline(value, indent)
    lines.append(f"{head} {text}" if text else head)


def _item(value: Any, indent: int, lines: list[str]) -> None:
    """An item of a list: the first line of what it holds stands behind the dash."""
    pad = " " * indent
    if isinstance(value, (dict, list)) and value:
        below: list[str] = []
        _block(value, indent + 2, below)
        below[0] = f"{pad}- {below[0][indent + 2 :]}"
        lines += below
    else:
        lines.append(f"{pad}- {_inline(value, indent)}")


def _inline(value: Any, indent: int) -> str:
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, list):
        return "[]"
    if isinstance(value, str) and not isinstance(value, Date):
        return _text(value, indent)
    return _scalar(value)


def _scalar(value: Any, *, key: bool = False) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Float):
        return _float(value, 32)
    if isinstance(value, float):
        return _float(value, 64)
    if isinstance(value, str) and not isinstance(value, Date):
        return _text(value, 0, key=key)
    return str(value)


def _float(value: float, bits: int) -> str:
    text = float_text(value, bits=bits)
    return {"NaN": ".nan", "+Inf": ".inf", "-Inf": "-.inf"}.get(text, text)


_OLD_BOOLEANS = frozenset("y Y yes Yes YES on On ON n N no No NO off Off OFF".split())


def _text(value: str, indent: int, *, key: bool = False) -> str:
    if "\n" in value and not key and _literal_allowed(value):
        return _literal(value, indent)
    if "\n" in value or not _printable(value):
        return _double(value)
    if _means_other(value):
        return _double(value)
    return value if _plain_allowed(value) else _single(value)


def _means_other(value: str) -> bool:
    """Whether it would be no text without quotes."""
    if value in _OLD_BOOLEANS or value in ("<<", "="):
        return value != "="
    return not isinstance(resolve(value), str) or isinstance(resolve(value), Date) or _sexagesimal(value)


def _sexagesimal(value: str) -> bool:
    """12:30:45, which YAML 1.1 took for a number."""
    import re

    return bool(re.fullmatch(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?", value))


def _plain_allowed(value: str) -> bool:
    if not value or value[0] in "#,[]{}&*!|>'\"%@`" or value[0].isspace() or value[-1].isspace():
        return False
    if value[0] in "?:-" and (len(value) == 1 or value[1] == " "):
        return False
    if value.startswith(("---", "...")):
        return False
    return ": " not in value and " #" not in value and not value.endswith(":") and "\t" not in value


def _printable(value: str) -> bool:
    return all(
        letter == "\t" or " " <= letter <= "~" or (letter >= "\xa0" and letter not in "\ufeff\ufffe\uffff\u2028\u2029")
        for letter in value
    )


def _literal_allowed(value: str) -> bool:
    lines = value.split("\n")
    return all(_printable(line) for line in lines)


def _literal(value: str, indent: int) -> str:
    body = value.rstrip("\n")
    tail = len(value) - len(body)
    hint = "2" if value[:1] in (" ", "\n") else ""
    chomp = "-" if not tail else ("" if tail == 1 and body else "+")
    pad = " " * (indent + 2)
    lines = value.split("\n") if tail == 0 else value[:-1].split("\n")
    return f"|{hint}{chomp}\n" + "\n".join(pad + line if line else "" for line in lines)


def _single(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


_ESCAPES = {
    "\0": "\\0",
    "\a": "\\a",
    "\b": "\\b",
    "\t": "\\t",
    "\n": "\\n",
    "\v": "\\v",
    "\f": "\\f",
    "\r": "\\r",
    "\x1b": "\\e",
    '"': '\\"',
    "\\": "\\\\",
    "\x85": "\\N",
    "\xa0": "\\_",
    "\u2028": "\\L",
    "\u2029": "\\P",
}


def _double(value: str) -> str:
    found = []
    for letter in value:
        if letter in _ESCAPES and letter != "\xa0":
            found.append(_ESCAPES[letter])
        elif _printable(letter):
            found.append(letter)
        elif letter <= "\xff":
            found.append(f"\\x{ord(letter):02X}")
        else:
            found.append(f"\\u{ord(letter):04X}" if letter <= "\uffff" else f"\\U{ord(letter):08X}")
    return '"' + "".join(found) + '"'
