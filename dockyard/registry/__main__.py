"""The command line: `serve [CONFIG]`, as the distribution project's registry has it."""

import argparse
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
    serving.add_argument("config", nargs="?", help="config.yml")
    serving.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting: http.addr=:5000")
    return parser


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
    sys.exit(main())
