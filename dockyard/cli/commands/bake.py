"""`bake`: several builds, as docker-bake.hcl, docker-bake.json and Compose files describe them."""

from __future__ import annotations

import os
import sys

from dockyard.cli.errors import Failure
from dockyard.cli.usage import usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.bake.read import File, Plan
    from dockyard.cli.commands.bake_remote import Remote
    from dockyard.cli.session import Session
    from dockyard.cli.usage import Flags


@usage(
    """
dockyard bake [OPTIONS] [URL [CMD_URL]] [TARGET...]

Build from a file, here or at a git or HTTP address

Options:
      --allow stringArray          Allow what is privileged: network.host, security.insecure, fs=PATH
      --call string                Ask the Dockerfiles: build, check, outline, targets (default "build")
      --check                      Check the Dockerfiles and build nothing (short for --call=check)
      --debug                      Open a shell in the container of a step that fails
  -f, --file stringArray           The file that describes the builds
      --list string                List targets or variables
      --load                       Make images of the engine's (short for --set=*.output=type=docker)
      --metadata-file string       File to write what came of the builds to
      --no-cache                   Do every step anew
      --print                      Show what would be built, and build nothing
      --progress string            How it is shown: auto, plain, tty, rawjson, quiet (default "auto")
      --provenance string          Short for --set=*.attest=type=provenance
      --pull                       Ask the registry for newer base images
      --push                       Push the images (short for --set=*.output=type=registry)
      --sbom string                Short for --set=*.attest=type=sbom
      --set stringArray            Override a target's value (TARGETPATTERN.KEY[.NAME][+]=VALUE)
"""
)
def bake(session: Session, flags: Flags) -> int:
    """Build the targets that are named, or the group `default`."""
    from dockyard.bake.errors import BakeError
    from dockyard.bake.printing import list_text, plan_text
    from dockyard.bake.read import Project

    if flags.on("print") and flags.given("list"):
        raise Failure("ERROR: --print and --list are mutually exclusive")
    try:
        words, remote, here = _addresses(flags)
        project = Project(_files(session, flags, remote), {**_builtin(), "BAKE_CMD_CONTEXT": here}, os.environ)
        if flags.given("list"):
            kind, _, form = flags.text("list").removeprefix("type=").partition(",")
            if kind not in ("targets", "variables"):
                raise BakeError(f"invalid list type {kind}")
            sys.stdout.write(list_text(project, kind, as_json=form == "format=json"))
            return 0
        located = (remote.locate,) if remote is not None else ()
        plan = project.plan(words or ["default"], _overrides(flags), *located)
    except BakeError as error:
        raise Failure(f"ERROR: {error}") from None
    _date(plan)
    if flags.on("print"):
        sys.stdout.write(plan_text(plan))
        return 0
    from dockyard.cli.commands.bake_build import build_all

    return build_all(session, flags, plan, remote)


def _addresses(flags: Flags) -> tuple[list[str], Remote | None, str]:
    """(the targets, what the first word is if it is an address, the second such word or this folder)."""
    from dockyard.bake.read import remote

    words = list(flags.arguments)
    if not words or not remote(words[0]):
        return words, None, "cwd://"
    from dockyard.cli.commands.bake_remote import Remote

    found = Remote(words.pop(0))
    return words, found, words.pop(0) if words and remote(words[0]) else "cwd://"


def _builtin() -> dict[str, str]:
    import platform

    machine = platform.machine()
    name = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "i686": "386"}.get(machine, machine)
    return {"BAKE_LOCAL_PLATFORM": f"linux/{name}"}


def _files(session: Session, flags: Flags, remote: Remote | None) -> list[File]:
    """The files with their text: those at an address, and ours, which `cwd://` tells of then. Raises Failure."""
    from dockyard.bake.read import default_files

    names = flags.all("file")
    if not names and os.environ.get("BUILDX_BAKE_FILE"):
        names = os.environ["BUILDX_BAKE_FILE"].split(os.environ.get("BUILDX_BAKE_PATH_SEPARATOR", os.pathsep))
    found: list[File] = []
    if remote is not None:
        from dockyard.cli.commands.build_graph import mode_of

        there = [name for name in names if not name.startswith("cwd://")]
        if there or not names:
            found = remote.files(session, there, mode_of(flags))
        names = [name for name in names if name.startswith("cwd://")]
    else:
        names = names or default_files()
    for name in (name.removeprefix("cwd://") for name in names):
        try:
            if name == "-":
                found.append((name, sys.stdin.read()))
                continue
            with open(name, encoding="utf-8") as file:
                found.append((name, file.read()))
        except OSError as error:
            raise Failure(f"ERROR: open {name}: {(error.strerror or str(error)).lower()}") from None
        except UnicodeDecodeError:
            raise Failure(f"ERROR: {name} is no text") from None
    if not found:
        raise Failure("ERROR: couldn't find a bake definition")
    return found


def _overrides(flags: Flags) -> list[str]:
    from dockyard.bake.compose_file import attest_text
    from dockyard.buildx.answers import Question

    found = flags.all("set")
    found += ["*.push=true"] if flags.on("push") else []
    found += ["*.load=true"] if flags.on("load") else []
    call = "check" if flags.on("check") else flags.text("call")
    found += [f"*.call={Question(call).name}"] if call not in ("", "build") else []
    found += [f"*.no-cache={flags.text('no-cache')}"] if flags.given("no-cache") else []
    found += [f"*.pull={flags.text('pull')}"] if flags.given("pull") else []
    found += [f"*.attest={attest_text(kind, flags.text(kind))}" for kind in ("sbom", "provenance") if flags.text(kind)]
    return found


def _date(plan: Plan) -> None:
    """SOURCE_DATE_EPOCH of the environment is an argument of every target."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch:
        for target in plan.targets.values():
            target["args"] = {"SOURCE_DATE_EPOCH": epoch, **target.get("args", {})}
