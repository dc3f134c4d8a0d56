"""What a runtime can fail at."""


class RuntimeFailure(Exception):
    """A container or a process in it could not be made or changed.

    `exit_code` is what a command line should end with: 127 when the program was not found, 126 when it may not be
    executed, else 1 (POSIX's shell convention, which Docker follows).
    """

    def __init__(self, message: str, exit_code: int = 1, *, inside: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.inside = inside  # whether it happened to the container's process, not to us who made it


class ProgramMissing(RuntimeFailure):
    """It takes a program that is not installed on this host."""
