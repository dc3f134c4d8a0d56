"""The command line: `serve [CONFIG]` and `garbage-collect [CONFIG]`, as the distribution project's registry has it."""

import argparse
import asyncio
import logging
import os
import sys

from dockyard.errors import DockyardError, InvalidParameter
from dockyard.registry import config as configuration
from dockyard.registry.settings import Config
from dockyard.version import VERSION

log = logging.getLogger("dockyard.registry")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="level=%(levelname)s msg=%(message)s", stream=sys.stdout)
    try:
        config = _config(options)
        from dockyard.registry.log import set_up

        set_up(config.log, config.loglevel)
        from dockyard.registry.server import run

        if options.command == "garbage-collect":
            _collect(config, options)
        else:
            run(config)
    except (DockyardError, OSError) as error:
        print(f"registry: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="registry", description="An OCI distribution server")
    parser.add_argument("--version", "-v", action="version", version=f"registry (dockyard {VERSION})")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="serve a registry")
    collecting = commands.add_parser("garbage-collect", help="delete blobs that no manifest names; others may go on")
    collecting.add_argument("--dry-run", "-d", action="store_true", help="only say what would be deleted")
    collecting.add_argument("--delete-untagged", "-m", action="store_true", help="delete manifests without tags first")
    collecting.add_argument("--grace", default="1h", metavar="DURATION", help="keep what is younger (default 1h)")
    collecting.add_argument("--quiet", "-q", action="store_true", help="name no blobs")
    for one in (serving, collecting):
        one.add_argument("config", nargs="?", help="config.yml")
        one.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting: http.addr=:5000")
    return parser


def _collect(config: Config, options: argparse.Namespace) -> None:
    """Collect garbage, and say what came of it."""
    from dockyard.registry.maintenance import collector
    from dockyard.registry.server import open_storage

    grace = configuration.seconds(options.grace) if options.grace != "0" else 0.0
    found = collector(open_storage(config), grace=grace, untagged=options.delete_untagged, dry_run=options.dry_run)
    report = asyncio.run(found.run())
    for one in () if options.quiet else (*report.untagged, *report.collected):
        print(f"{'eligible for deletion' if options.dry_run else 'deleted'}: {one}")
    print(f"{'would be: ' if options.dry_run else ''}{report}")


def _config(options: argparse.Namespace) -> Config:
    """The settings of the file, the variables and the command line, of which the last counts. Raises DockyardError."""
    path = options.config or os.environ.get("REGISTRY_CONFIGURATION_PATH", "")
    text = ""
    if path:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    environment = {name: value for name, value in os.environ.items() if name != "REGISTRY_CONFIGURATION_PATH"}
    for one in options.set:
        name, equals, value = one.partition("=")
        if not equals:
            raise InvalidParameter(f"--set {one}: it is not NAME=VALUE")
        environment[configuration.PREFIX + name.upper().replace(".", "_")] = value
    config = configuration.load(text, environment)
    configuration.check(config)
    return config


if __name__ == "__main__":
    from dockyard.ending import end

    end(main())
