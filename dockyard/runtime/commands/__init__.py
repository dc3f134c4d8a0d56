"""The commands of `dockyard-runc`, a module each: HELP, which is also the grammar, and `command`."""
