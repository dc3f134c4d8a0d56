"""The `dockyard` command line, on the client alone. What is not needed is not imported: a start takes milliseconds."""
