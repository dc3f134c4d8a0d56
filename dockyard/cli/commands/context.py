"""Contexts: create, use, ls, inspect, update, rm, export, import, show."""

from __future__ import annotations

import os
import sys

from dockyard.cli import output
from dockyard.cli.contexts import DEFAULT, ContextStore, check_name
from dockyard.cli.errors import Failure
from dockyard.cli.session import Session
from dockyard.cli.usage import Flags, usage
from dockyard.client import config_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ENDPOINT_KEYS = """\
Keys of --docker (KEY=VALUE[,KEY=VALUE...]):

NAME                DESCRIPTION
from                Context to take the endpoint from
host                Address of the engine
ca                  CA that has signed the engine's certificate
cert                Our certificate
key                 Its key
skip-tls-verify     Do not check the engine's certificate"""
CONTEXT = "*formatter.clientContextContext"
_KEYS = ("from", "host", "ca", "cert", "key", "skip-tls-verify")


@usage(
    f"""
dockyard context create [OPTIONS] CONTEXT

Create a context

{ENDPOINT_KEYS}

Options:
      --description string      Description of the context
      --docker stringToString   Endpoint of the engine
      --from string             Context to copy
"""
)
def create(session: Session, flags: Flags) -> int:
    """Prints the name."""
    store, name = session.contexts, flags.arguments[0]
    pairs = _pairs(flags)
    store.check_new(name)
    if flags.given("from") or not flags.given("docker"):
        if flags.given("docker"):
            raise Failure("cannot use --docker flag when --from is set")
        source = flags.text("from") or session.context
        meta = store.get(source)
        tls = _certificates(store, source)
        if flags.text("description"):
            meta["Metadata"]["Description"] = flags.text("description")
    else:
        endpoint, files = _endpoint(store, pairs)
        described = {"Description": flags.text("description")} if flags.text("description") else {}
        meta = {"Metadata": described, "Endpoints": {"docker": endpoint}}
        tls = {"docker": files} if files else {}
    store.write({"Name": name, "Metadata": meta["Metadata"], "Endpoints": meta["Endpoints"]})
    store.write_tls(name, tls)
    print(name, flush=True)
    print(f'Successfully created context "{name}"', file=sys.stderr)
    return 0


def _certificates(store: ContextStore, name: str) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for endpoint, names in store.tls_files(name).items():
        for file_name in names:
            with open(f"{store.tls_path(name)}/{endpoint}/{file_name}", "rb") as file:
                found.setdefault(endpoint, {})[file_name] = file.read()
    return found


def _pairs(flags: Flags) -> dict[str, str]:
    """The KEY=VALUE pairs of --docker. Raises UsageError."""
    given: dict[str, str] = {}
    for text in flags.all("docker"):
        for pair in text.split(","):
            key, equals, value = pair.partition("=")
            if not equals:
                raise flags.invalid("docker", text, f"{pair} must be formatted as key=value")
            given[key] = value
    return given


def _endpoint(store: ContextStore, given: dict[str, str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What --docker says: the endpoint, and its certificates by file name. Raises Failure."""
    wrong = "unable to create docker endpoint config: "
    unknown = [key for key in given if key not in _KEYS]
    if unknown:
        raise Failure(wrong + "\n".join(f"unrecognized config key: {key}" for key in unknown))
    if "from" in given:
        try:
            return store.get(given["from"])["Endpoints"]["docker"], {}
        except Failure as failure:
            raise Failure(f"{wrong}{failure}") from None
    files = {}
    for key in ("ca", "cert", "key"):
        if given.get(key):
            try:
                with open(os.path.expanduser(given[key]), "rb") as file:
                    files[f"{key}.pem"] = file.read()
            except OSError as error:
                raise Failure(f"{wrong}open {given[key]}: {(error.strerror or '').lower()}") from None
    skip = given.get("skip-tls-verify", "false").lower()
    if skip not in ("true", "false", "1", "0", "t", "f"):
        raise Failure(f'{wrong}skip-tls-verify: parsing "{given["skip-tls-verify"]}": invalid syntax')
    if given.get("host") and "://" not in given["host"]:
        raise Failure(f"{wrong}unable to apply docker endpoint options: unable to parse docker host `{given['host']}`")
    endpoint = {"Host": given.get("host", ""), "SkipTLSVerify": skip in ("true", "1", "t")}
    return ({key: value for key, value in endpoint.items() if value or key == "SkipTLSVerify"}), files


@usage(
    f"""
dockyard context update [OPTIONS] CONTEXT

Update a context

{ENDPOINT_KEYS}

Options:
      --description string      Description of the context
      --docker stringToString   Endpoint of the engine
"""
)
def update(session: Session, flags: Flags) -> int:
    """Prints the name."""
    store, name = session.contexts, flags.arguments[0]
    pairs = _pairs(flags)
    check_name(name)
    meta = store.get(name)
    if flags.text("description"):
        meta["Metadata"]["Description"] = flags.text("description")
    tls = None
    if flags.given("docker"):
        meta["Endpoints"]["docker"], files = _endpoint(store, pairs)
        tls = {"docker": files} if files else {}
    store.write(meta)
    if tls is not None:
        store.write_tls(name, tls)
    print(name, flush=True)
    print(f'Successfully updated context "{name}"', file=sys.stderr)
    return 0


@usage(
    """
dockyard context use CONTEXT

Set the context that is used from now on
"""
)
def use(session: Session, flags: Flags) -> int:
    """Prints the name."""
    name = flags.arguments[0]
    if name != DEFAULT:
        check_name(name)
        session.contexts.get(name)
    _set_current(session, "" if name == DEFAULT else name)
    print(name, flush=True)
    print(f'Current context is now "{name}"', file=sys.stderr)
    if name != DEFAULT and os.environ.get("DOCKER_HOST"):
        print(
            f'Warning: DOCKER_HOST environment variable overrides the active context. To use "{name}", '
            "either set the global --context flag, or unset DOCKER_HOST environment variable.",
            file=sys.stderr,
        )
    return 0


def _set_current(session: Session, name: str) -> None:
    config = session.config
    if config.get("currentContext", "") == name:
        return
    config.pop("currentContext", None)
    config_file.write(session.config_folder, config | ({"currentContext": name} if name else {}))


@usage(
    """
dockyard context show

Print the name of the current context
"""
)
def show(session: Session, flags: Flags) -> int:
    """Prints a name."""
    print(session.context)
    return 0


@usage(
    """
dockyard context ls [OPTIONS]

List contexts

Options:
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
  -q, --quiet           Show names only
"""
)
def ls(session: Session, flags: Flags) -> int:
    """Prints a table; the current one has a star."""
    current = session.context
    rows = []
    for meta in session.contexts.all():
        endpoint = meta["Endpoints"].get("docker")
        description = meta["Metadata"].get("Description") or ""
        if meta["Name"] == DEFAULT:
            description = "Current DOCKER_HOST based configuration"
        rows.append(
            {
                "Name": meta["Name"],
                "Description": description,
                "DockerEndpoint": (endpoint or {}).get("Host", ""),
                "Current": meta["Name"] == current,
                "Error": "" if endpoint is not None else "cannot find docker endpoint in context",
            }
        )
    if current not in {row["Name"] for row in rows}:
        try:
            why = ""
            session.contexts.get(current)
        except Failure as failure:
            why = output.ellipsis(str(failure), 45)
        rows.append({"Name": current, "Description": "", "DockerEndpoint": "", "Current": True, "Error": why})
        rows.sort(key=lambda row: row["Name"])
    if flags.on("quiet"):
        for row in rows:
            print(row["Name"])
    else:
        form = flags.text("format")
        if form in ("", "table"):
            form = "table {{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}"
        headings = {"DockerEndpoint": "DOCKER ENDPOINT", "Current": ""}
        output.rows(rows, form, {"Name": "NAME", "Description": "DESCRIPTION"}, headings, CONTEXT)
    sys.stdout.flush()
    if os.environ.get("DOCKER_HOST"):
        print(
            "Warning: DOCKER_HOST environment variable overrides the active context. To use a context, "
            "either set the global --context flag, or unset DOCKER_HOST environment variable.",
            file=sys.stderr,
        )
    return 0


@usage(
    """
dockyard context inspect [OPTIONS] [CONTEXT] [CONTEXT...]

Display detailed information on one or more contexts

Options:
  -f, --format string   'json' or a Go template
"""
)
def inspect(session: Session, flags: Flags) -> int:
    """Prints JSON."""
    output.check(flags.text("format"))
    store = session.contexts
    found, failures = [], []
    for name in flags.arguments or [session.context]:
        try:
            meta = store.get(name)
        except Failure as failure:
            failures.append(str(failure))
            continue
        in_memory = name == DEFAULT
        found.append(
            {
                "Name": meta["Name"],
                "Metadata": meta["Metadata"],
                "Endpoints": meta["Endpoints"],
                "TLSMaterial": store.tls_files(name),
                "Storage": {
                    "MetadataPath": "<IN MEMORY>" if in_memory else store.metadata_path(name),
                    "TLSPath": "<IN MEMORY>" if in_memory else store.tls_path(name),
                },
            }
        )
    return output.inspected(found, failures, flags.text("format"), escaped=True)


@usage(
    """
dockyard context rm [OPTIONS] CONTEXT [CONTEXT...]

Remove one or more contexts

Options:
  -f, --force   Even if it is in use
"""
)
def rm(session: Session, flags: Flags) -> int:
    """Prints the names."""
    store, current = session.contexts, session.context
    failures = []
    for name in flags.arguments:
        if name == DEFAULT:
            failures.append('context "default" cannot be removed')
        elif name == current and not flags.on("force"):
            failures.append(f'context "{name}" is in use, set -f flag to force remove')
        elif not flags.on("force") and not os.path.exists(store.metadata_path(name)):
            failures.append(f'context "{name}" does not exist')
        else:
            if name == current:
                _set_current(session, "")
            store.remove(name)
            print(name)
    if failures:
        raise Failure("\n".join(failures))
    return 0


@usage(
    """
dockyard context export [OPTIONS] CONTEXT [FILE|-]

Export a context to a tar archive FILE or a tar stream on STDOUT.
"""
)
def export(session: Session, flags: Flags) -> int:
    """Writes CONTEXT.dockercontext unless another file is named."""
    name, *rest = flags.arguments
    if name != DEFAULT:
        check_name(name)
    target = rest[0] if rest else f"{name}.dockercontext"
    store = session.contexts
    if target == "-":
        if sys.stdout.isatty():
            raise Failure("cowardly refusing to export to a terminal, specify a file path")
        store.export(name, sys.stdout.buffer)
        return 0
    store.get(name)
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Failure(f"open {target}: {(error.strerror or '').lower()}") from None
    with os.fdopen(descriptor, "wb") as file:
        store.export(name, file)
    print(f'Written file "{target}"', file=sys.stderr)
    return 0


@usage(
    """
dockyard context import CONTEXT FILE|-

Import a context from a tar or zip file
"""
)
def import_(session: Session, flags: Flags) -> int:
    """Prints the name."""
    name, source = flags.arguments
    store = session.contexts
    store.check_new(name)
    if source == "-":
        data = sys.stdin.buffer.read()
    else:
        try:
            with open(source, "rb") as file:
                data = file.read()
        except OSError as error:
            raise Failure(f"open {source}: {(error.strerror or '').lower()}") from None
    store.import_(name, data)
    print(name, flush=True)
    print(f'Successfully imported context "{name}"', file=sys.stderr)
    return 0
