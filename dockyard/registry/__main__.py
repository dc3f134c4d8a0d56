"""The command line: `serve [CONFIG]`, `garbage-collect CONFIG`, as the distribution project's registry has them."""

import argparse
import asyncio
import logging
import sys

from dockyard.errors import DockyardError
from dockyard.registry.handlers import Handlers
from dockyard.registry.server import Listener, listen, serve
from dockyard.registry.storage.filesystem import FileSystem
from dockyard.version import VERSION


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit status."""
    parser = argparse.ArgumentParser(prog="registry", description="An OCI distribution server")
    parser.add_argument("--version", action="version", version=f"registry (dockyard {VERSION})")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="serve a registry")
    serving.add_argument("config", nargs="?")
    serving.add_argument("--addr", default=":5000")
    serving.add_argument("--storage", default="/var/lib/registry")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    try:
        handlers = Handlers(FileSystem(options.storage))
        asyncio.run(serve(handlers, Listener(listen(options.addr)), 10))
    except DockyardError as error:
        print(f"registry: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
