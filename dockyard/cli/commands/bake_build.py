"""`bake`'s builds: targets as requests, what they need to be allowed, and what is told of them."""

from __future__ import annotations

import os
import sys

from dockyard.cli import values
from dockyard.cli.commands import build_graph
from dockyard.cli.commands.bake_remote import PART
from dockyard.cli.errors import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dockyard.bake.read import Plan
    from dockyard.buildx.request import BuildRequest
    from dockyard.buildx.solve import Solved
    from dockyard.cli.commands.bake_remote import Remote
    from dockyard.cli.session import Session
    from dockyard.cli.usage import Flags

    Target = dict[str, Any]


def build_all(session: Session, flags: Flags, plan: Plan, source: Remote | None) -> int:
    """Build the targets of a plan, which is of the address `source` if it is given. Raises Failure."""
    import tempfile

    from dockyard.buildx.request import InvalidRequest

    _check_allowed(flags, plan)
    mode = build_graph.mode_of(flags)
    calls = {
        name: str(target["call"]) for name, target in plan.targets.items() if target.get("call", "build") != "build"
    }
    with tempfile.TemporaryDirectory(prefix="dockyard-bake") as folder:
        try:
            requests = {
                name: _request(session, name, target, os.path.join(folder, name), source)
                for name, target in plan.targets.items()
            }
            solved = build_graph.solve_all(session, requests, _links(plan), mode, debug=build_graph.debugged(flags))
        except InvalidRequest as error:
            raise Failure(f"ERROR: {error}") from None
    if flags.given("metadata-file"):
        _write_metadata(flags, solved)
    return _answers(flags, calls, solved) if calls else 0


def _links(plan: Plan) -> dict[str, dict[str, str]]:
    return {
        name: {
            context: value.removeprefix("target:")
            for context, value in target.get("contexts", {}).items()
            if value.startswith("target:")
        }
        for name, target in plan.targets.items()
    }


def _request(session: Session, name: str, target: Target, folder: str, source: Remote | None) -> BuildRequest:
    from dockyard.buildx import request as asked

    made = asked.BuildRequest(
        secrets=[_csv(entry) for entry in target.get("secret", [])],
        ssh=[
            "=".join([entry["id"], ",".join(entry["paths"])]) if entry.get("paths") else entry["id"]
            for entry in target.get("ssh", [])
        ],
        entitlements=list(target.get("entitlements", [])),
    )
    _options(session, target, made.options)
    own = {
        context: value
        for context, value in target.get("contexts", {}).items()
        if not value.startswith(("target:", PART))
    }
    asked.contexts(made, {context: value.removeprefix("cwd://") for context, value in own.items()})
    made.options.update(asked.attestations([_csv(entry) for entry in target.get("attest", [])], "", ""))
    made.cache_imports = asked.caches([_csv(entry) for entry in target.get("cache-from", [])])
    made.cache_exports = asked.caches([_csv(entry) for entry in target.get("cache-to", [])])
    call = target.get("call", "build")
    if call == "build":
        annotations = asked.annotation_attributes(target.get("annotations", []))
        outputs = [_csv(entry) for entry in target.get("output", [])]
        made.outputs = build_graph.outputs_of(outputs, target.get("tags", []), annotations, push=False, load=False)
    else:
        from dockyard.buildx.answers import Question

        made.options["requestid"] = Question(call).request_id
    if source is not None:
        source.take_part(target, made)
    if not target["context"].startswith(PART):
        _context(target, made, folder)
    return made


def _csv(entry: dict[str, Any]) -> str:
    from dockyard.bake.target import csv_text

    return csv_text(
        [(name, str(value).lower() if isinstance(value, bool) else str(value)) for name, value in entry.items()]
    )


def _options(session: Session, target: Target, options: dict[str, str]) -> None:
    build_graph.add_proxies(session, options)
    for kind, field in (("build-arg", "args"), ("label", "labels")):
        options.update((f"{kind}:{name}", value) for name, value in target.get(field, {}).items() if value is not None)
    if target.get("no-cache"):
        options["no-cache"] = ""
    elif target.get("no-cache-filter"):
        options["no-cache"] = ",".join(target["no-cache-filter"])
    network = target.get("network", "")
    hosts = target.get("extra-hosts", {})
    try:
        shm_size = str(values.size(target["shm-size"])) if target.get("shm-size") else ""
    except ValueError:
        raise Failure(f"ERROR: invalid value {target['shm-size']} for membytes key shm-size") from None
    for name, text in (
        ("target", target.get("target", "")),
        ("platform", ",".join(target.get("platforms", []))),
        ("force-network-mode", network if network != "default" else ""),
        ("add-hosts", ",".join(f"{host}={address}" for host, address in hosts.items() if address is not None)),
        ("shm-size", shm_size),
        ("ulimit", ",".join(target.get("ulimits", []))),
        ("image-resolve-mode", "pull" if target.get("pull") else ""),
    ):
        if text:
            options[name] = text


def _context(target: Target, request: BuildRequest, folder: str) -> None:
    from dockyard.bake.read import cleaned, remote

    context, dockerfile = target["context"], target["dockerfile"]
    here = dockerfile.startswith("cwd://")
    dockerfile = os.path.abspath(cleaned(dockerfile.removeprefix("cwd://"))) if here else cleaned(dockerfile)
    if remote(context):
        request.options["context"] = context
        if not here:
            request.options["filename"] = dockerfile
    else:
        build_graph.check_directory(context)
        request.directories["context"] = context
        dockerfile = os.path.join(context, dockerfile)
    if target.get("dockerfile-inline"):
        os.makedirs(folder)
        with open(os.path.join(folder, "Dockerfile"), "w", encoding="utf-8") as file:
            file.write(target["dockerfile-inline"])
        dockerfile = os.path.join(folder, "Dockerfile")
    elif remote(context) and not here:
        return
    request.directories["dockerfile"] = os.path.dirname(dockerfile) or "."
    request.options["filename"] = os.path.basename(dockerfile)
    if remote(context):
        request.options["dockerfilekey"] = "dockerfile"


# -- what a file may ask for by itself


def _check_allowed(flags: Flags, plan: Plan) -> None:
    """A bake file may be somebody else's: what reaches beyond this folder is to be allowed. Raises Failure."""
    allowed = [word for text in flags.all("allow") for word in text.split(",")]
    wanted: list[str] = []
    for target in plan.targets.values():
        wanted += [name for name in target.get("entitlements", []) if name not in allowed]
        wanted += [f"fs.read={path}" for path in _read(target) if not _within(path, allowed, "fs.read")]
        written = [one.get("dest", "") for one in target.get("output", [])]
        wanted += [f"fs.write={path}" for path in written if path and not _within(path, allowed, "fs.write")]
    if os.environ.get("BUILDX_BAKE_ENTITLEMENTS_FS", "").lower() in ("0", "false"):
        wanted = [one for one in wanted if not one.startswith("fs.")]
    if not wanted:
        return
    told = "".join(f" - {one}\n" for one in dict.fromkeys(wanted))
    words = " ".join(f"--allow {one}" for one in dict.fromkeys(wanted))
    sys.stderr.write(f"Your build is requesting privileges for following possibly insecure capabilities:\n\n{told}\n")
    sys.stderr.write(f'Pass "{words}" to grant requested privileges.\n')
    if sys.stdin.isatty() and sys.stderr.isatty():
        sys.stderr.write("Do you want to grant requested privileges and continue? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
    raise Failure("ERROR: additional privileges requested")


def _read(target: Target) -> list[str]:
    """The paths outside that a target would have read."""
    from dockyard.bake.read import remote

    found = [target["context"], *target.get("contexts", {}).values()]
    found = [
        path.removeprefix("cwd://") for path in found if not remote(path) and "://" not in path.removeprefix("cwd://")
    ]
    found = [path for path in found if not path.startswith("target:")]
    dockerfile = target["dockerfile"].removeprefix("cwd://")
    if not remote(target["context"]) and not target["context"].startswith(PART) and not target.get("dockerfile-inline"):
        found.append(os.path.join(target["context"], dockerfile))
    found += [secret["src"] for secret in target.get("secret", []) if secret.get("src")]
    found += [path for agent in target.get("ssh", []) for path in agent.get("paths", [])]
    return found


def _within(path: str, allowed: list[str], kind: str) -> bool:
    if path == "-":
        return True
    real = os.path.realpath(path)
    places = [os.getcwd()]
    for word in allowed:
        name, equals, place = word.partition("=")
        if equals and name in ("fs", kind):
            if place == "*":
                return True
            places.append(place)
    return any(real == (root := os.path.realpath(place)) or real.startswith(f"{root.rstrip('/')}/") for place in places)


# -- what is told


def _write_metadata(flags: Flags, solved: dict[str, Solved]) -> None:
    import json

    from dockyard.buildx.metadata import decoded

    told = {
        name: {**decoded(one.told), "buildx.build.ref": f"default/default/{one.ref}"} for name, one in solved.items()
    }
    with open(flags.text("metadata-file"), "w", encoding="utf-8") as file:
        json.dump(told, file, indent=2, sort_keys=True)


def _answers(flags: Flags, calls: dict[str, str], solved: dict[str, Solved]) -> int:
    from dockyard.buildx.answers import Question

    code = 0
    for number, name in enumerate(sorted(calls)):
        question = Question(flags.text("call") if flags.given("call") else calls[name])
        text, status, error = question.text(solved[name].answers)
        said = f"error: {error}\n" if error else ""
        sys.stdout.write(("\n" if number else "") + f"{name}\n\n{text}{said}")
        code = code or status or int(bool(error))
    return code
