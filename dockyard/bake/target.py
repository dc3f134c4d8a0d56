"""A target: what its fields take, how targets are laid over each other, and what `--print` shows (bake/bake.go).

A target is a mapping of the names that bake files and JSON have; a field that is not there was not said.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dockyard.bake.errors import BakeError
from dockyard.bake.values import Value, WrongType, kind_of, to_bool, to_string

Target = dict[str, Any]
Entry = dict[str, Any]

# in the order in which they are printed
FIELDS = (
    "description inherits annotations attest context contexts dockerfile dockerfile-inline args labels tags cache-from "
    "cache-to target secret ssh platforms output pull no-cache network no-cache-filter shm-size ulimits call "
    "entitlements extra-hosts"
).split()
TEXTS = ("description", "context", "dockerfile", "dockerfile-inline", "target", "network", "shm-size", "call")
LISTS = ("inherits", "annotations", "tags", "platforms", "no-cache-filter", "ulimits", "entitlements")
MAPS = ("args", "labels", "extra-hosts", "contexts")
SWITCHES = ("pull", "no-cache")
APPENDED = ("annotations", "no-cache-filter", "ulimits", "entitlements", "inherits")
ESCAPED_MAPS = ("args", "labels", "extra-hosts")


def csv_fields(text: str) -> list[str]:
    """The fields of a comma-separated value. Raises BakeError."""
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise BakeError(f"invalid value {text}: {error}") from None


def csv_text(pairs: Sequence[tuple[str, str]]) -> str:
    """Pairs as a comma-separated value."""
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow([f"{name}={value}" for name, value in pairs])
    return written.getvalue()


# -- entries: caches, outputs, attestations, secrets, SSH agents


def cache_entry(text: str) -> list[Entry]:
    """`--cache-from` and its like: an image, images, or type=…. Raises BakeError."""
    parts = csv_fields(text)
    if "=" not in text:
        return [{"type": "registry", "ref": part} for part in parts]
    found = _pairs(parts)
    if not found.get("type"):
        raise BakeError(f"type required form> {json.dumps(text)}")
    return [found]


def output_entry(text: str) -> list[Entry]:
    """`--output`: a directory, `-`, or type=…. Raises BakeError."""
    parts = csv_fields(text)
    if len(parts) == 1 and parts[0] == text and not text.startswith("type="):
        return [{"type": "tar" if text == "-" else "local", "dest": text}]
    found = _pairs(parts)
    if not found.get("type"):
        raise BakeError("type is required for output")
    return [found]


def attest_entry(text: str) -> list[Entry]:
    """`--attest`: type=…. Raises BakeError."""
    found: Entry = _pairs(csv_fields(text), lower=False)
    if "disabled" in found:
        try:
            found["disabled"] = to_bool(str(found["disabled"]).lower())
        except WrongType:
            raise BakeError(f"invalid value disabled={found['disabled']}") from None
    return [_attest(found)]


def secret_entry(text: str) -> list[Entry]:
    """`--secret`: id=…. Raises BakeError."""
    found: Entry = {}
    kind = ""
    for part in csv_fields(text):
        name, equals, value = part.partition("=")
        name = name.lower()
        if not equals:
            raise BakeError(f"invalid field '{part}' must be a key=value pair")
        if name == "type":
            if value not in ("file", "env"):
                raise BakeError(f"unsupported secret type {json.dumps(value)}")
            kind = value
        elif name in ("id", "env", "src", "source"):
            found["src" if name == "source" else name] = value
        else:
            raise BakeError(f"unexpected key '{name}' in '{part}'")
    if kind == "env" and not found.get("env"):
        found["env"] = found.pop("src", "")
    return [found]


def ssh_entry(text: str) -> list[Entry]:
    """`--ssh`: ID[=PATH[,PATH]]."""
    name, equals, paths = text.partition("=")
    return [{"id": name, "paths": paths.split(",")} if equals else {"id": name}]


def _pairs(parts: Sequence[str], *, lower: bool = True) -> dict[str, str]:
    found = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals:
            raise BakeError(f"invalid value {part}")
        found[name.strip().lower() if lower or name.strip().lower() in ("type", "disabled") else name] = value
    return found


def _attest(found: Entry) -> Entry:
    if not found.get("type"):
        raise BakeError("attestation type not specified")
    if found.get("disabled") is False:
        del found["disabled"]
    return found


ENTRIES: dict[str, Callable[[str], list[Entry]]] = {
    "cache-from": cache_entry,
    "cache-to": cache_entry,
    "output": output_entry,
    "attest": attest_entry,
    "secret": secret_entry,
    "ssh": ssh_entry,
}
KEYED = {"attest": "type", "secret": "id", "ssh": "id"}  # entries of which there is one for each key


def entries(field: str, values: Sequence[Value]) -> list[Entry]:
    """A list of texts and objects as entries. Raises BakeError."""
    found: list[Entry] = []
    for value in values:
        if value is None or value == "":
            continue
        if isinstance(value, Mapping):
            found.append(_entry_of(field, value))
        else:
            found += ENTRIES[field](_text(field, value))
    return found


def _entry_of(field: str, value: Mapping[str, Value]) -> Entry:
    made: Entry = {}
    for name, one in value.items():
        if one is None:
            continue
        if isinstance(one, list):
            made[name] = [_text(field, item) for item in one]
        elif field == "attest" and name == "disabled":
            made[name] = to_bool(one)
        else:
            made[name] = _text(field, one)
    if field in ("cache-from", "cache-to") and not made.get("type"):
        raise BakeError(f"type required form> {json.dumps(json.dumps(made, separators=(',', ':')))}")
    if field == "output" and not made.get("type"):
        raise BakeError("type is required for output")
    return _attest(made) if field == "attest" else made


def without_repeats(field: str, values: list[Entry]) -> list[Entry]:
    """Entries, each once; of those with the same key the last one, where the first stood."""
    if field in KEYED:
        by_key: dict[str, Entry] = {}
        for value in values:
            by_key[str(value.get(KEYED[field], ""))] = value
        return list(by_key.values())
    # buildx puts the last entry where a repeated one was
    found = list(values)
    for index in range(len(found) - 2, -1, -1):
        for other in range(index + 1, len(found)):
            if found[index] == found[other]:
                found[other], found[-1] = found[-1], found[other]
                found.pop()
                break
    return found


# -- fields


def _text(field: str, value: Value) -> str:
    try:
        return to_string(value)
    except WrongType:
        message = f"Unsuitable value type; Unsuitable value: {field}: string required, have {kind_of(value)}"
        raise BakeError(message) from None


def field_of(field: str, value: Value) -> Any:
    """A field's value as an expression gave it; None when it says nothing. Raises BakeError."""
    if value is None:
        return None
    if field in TEXTS:
        return _text(field, value)
    if field in SWITCHES:
        try:
            return to_bool(value)
        except WrongType:
            raise BakeError(f"Unsuitable value type; {field}: bool required") from None
    if field in MAPS:
        if not isinstance(value, Mapping):
            raise BakeError(f"Unsuitable value type; {field}: map of string required")
        found = {name: None if one is None else _text(field, one) for name, one in value.items()}
        return {name: one or "" for name, one in found.items()} if field == "contexts" else found
    if not isinstance(value, list):
        raise BakeError(f"Unsuitable value type; {field}: list of string required")
    if field in ENTRIES:
        return entries(field, value)
    return ["" if one is None else _text(field, one) for one in value]


def merge(base: Target, over: Target) -> Target:
    """`over` laid over `base`."""
    made = dict(base)
    for field, value in over.items():
        if field in MAPS:
            known = {name: one for name, one in value.items() if one is not None or field == "contexts"}
            if known or field in made:
                made[field] = {**made.get(field, {}), **known}
        elif field in APPENDED:
            made[field] = [*made.get(field, []), *value]
        elif field in ("attest", "secret", "ssh", "cache-from"):
            made[field] = without_repeats(field, [*made.get(field, []), *value])
        elif field == "description" and not value:
            continue
        else:
            made[field] = value
    return made


def normalized(target: Target) -> Target:
    """Without what is said twice, and with what the host's network implies."""
    made = dict(target)
    for field in ("annotations", "tags", "platforms", "no-cache-filter", "ulimits"):
        if field in made:
            made[field] = _once(made[field])
    for field in ENTRIES:
        if field in made:
            made[field] = without_repeats(field, made[field])
    if made.get("network") == "host":
        made["entitlements"] = [*made.get("entitlements", []), "network.host"]
    if "entitlements" in made:
        made["entitlements"] = _once(made["entitlements"])
    if "contexts" in made:
        made["contexts"] = {name: value for name, value in made["contexts"].items() if value}
    return made


def _once(values: Sequence[str]) -> list[str]:
    return [value for value in dict.fromkeys(values) if value]


# -- overrides


def override(target: Target, key: str, values: Sequence[str], *, append: bool) -> Target:
    """A target with `--set TARGET.key=value`. Raises BakeError."""
    field, _, name = key.partition(".")
    made, last = dict(target), values[-1] if values else ""
    if field in ("args", "contexts", "labels", "extra-hosts"):
        if not name:
            raise BakeError(f"invalid format for {field}, expecting {field}.<name>=<value>")
        made[field] = {**made.get(field, {}), name: last}
    elif field in ("context", "dockerfile", "target", "call", "shm-size", "network"):
        made[field] = last
    elif field in ("tags", "platform", "no-cache-filter", "ulimits"):
        own = "platforms" if field == "platform" else field
        made[own] = [*(made.get(own, []) if append else []), *values]
    elif field in ("cache-from", "cache-to", "output", "secrets", "ssh"):
        own = "secret" if field == "secrets" else field
        made[own] = [*(made.get(own, []) if append else []), *entries(own, values)]
    elif field in ("entitlements", "annotations"):
        made[field] = [*made.get(field, []), *values]
    elif field == "attest":
        made[field] = without_repeats(field, [*made.get(field, []), *entries(field, values)])
    elif field in (*SWITCHES, "push", "load"):
        if last.lower() not in ("true", "false", "1", "0", "t", "f"):
            raise BakeError(f"invalid value {last} for boolean key {field}")
        switch = last.lower() in ("true", "1", "t")
        if field in SWITCHES:
            made[field] = switch
        else:
            made["output"] = (_pushed if field == "push" else _loaded)(made.get("output", []), switch)
    else:
        raise BakeError(f"unknown key: {field}")
    return made


def _pushed(outputs: list[Entry], push: bool) -> list[Entry]:
    if not push:
        kept = [one for one in outputs if one["type"] != "registry"]
        return [{**one, "push": "false"} if one["type"] == "image" else one for one in kept]
    found = [{**one, "push": "true"} if one["type"] == "image" else one for one in outputs]
    if all(one["type"] == "docker" for one in outputs):
        found.append({"type": "image", "push": "true"})
    return found


def _loaded(outputs: list[Entry], load: bool) -> list[Entry]:
    if not load or any(one["type"] == "docker" and not one.get("dest") for one in outputs):
        return outputs
    if any(one["type"] not in ("docker", "image", "registry", "oci") for one in outputs):
        return outputs
    return [*outputs, {"type": "docker"}]


# -- print


def printed(target: Target) -> dict[str, Any]:
    """The target as `--print` has it."""
    made: dict[str, Any] = {}
    for field in FIELDS:
        value: Any = target.get(field)
        said = value not in (None, [], {}, "") or (value == "" and field in TEXTS and field != "description")
        if not said or field == "inherits":
            continue
        if field in ESCAPED_MAPS:
            value = {name: None if one is None else _escaped(one) for name, one in sorted(value.items())}
        elif field == "contexts":
            value = dict(sorted(value.items()))
        elif field == "annotations":
            value = list(map(_escaped, value))
        elif field == "dockerfile-inline":
            value = _escaped(value)
        elif field in ENTRIES:
            value = [_printed_entry(field, one) for one in value]
        made[field] = value
    return made


def _printed_entry(field: str, entry: Entry) -> Entry:
    if field in ("secret", "ssh"):
        names = ("id", "src", "env") if field == "secret" else ("id", "paths")
        return {name: entry[name] for name in names if entry.get(name)}
    return {name: entry[name] for name in sorted(entry) if name != "dest" or entry[name]}


def _escaped(text: str) -> str:
    return text.replace("${", "$${").replace("%{", "%%{")
