"""What a runtime's command line says of errors: lines that engines read, in the form of Go's logrus.

To standard error as text, unless `--log` names a file and `--log-format` says json. What goes to a file is told to
standard error too, in plain words.
"""

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3}


class Log:
    """Where messages go. `path` "" is standard error; `form` is text or json."""

    def __init__(self, path: str = "", form: str = "text", *, debug: bool = False) -> None:
        self.path = path
        self.form = form
        self._least = LEVELS["debug" if debug else "info"]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_SYNC | os.O_CLOEXEC
        self.fd = os.open(path, flags, 0o644) if path else 2

    def write(self, level: str, message: str) -> None:
        """One line, if the level is wanted."""
        if LEVELS[level] < self._least:
            return
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.form == "json":
            from dockyard.oci import quick_json

            line = quick_json.dumps({"level": level, "msg": message, "time": moment})
        elif self.fd == 2 and os.isatty(2):
            line = f"\x1b[{36 if level in ('debug', 'info') else 33 if level == 'warning' else 31}m"
            line += f"{level[:4].upper()}\x1b[0m[0000] {message}"
        else:
            line = f'time="{moment}" level={level} msg={_quoted(message)}'
        try:
            os.write(self.fd, line.encode(errors="surrogateescape") + b"\n")
        except OSError:
            pass  # nobody listens

    def teller(self) -> "Callable[[str], None] | None":
        """Who wants to hear each step: the log of a `--debug` run."""
        return self._debug if self._least == LEVELS["debug"] else None

    def _debug(self, message: str) -> None:
        self.write("debug", message)

    def warning(self, message: str) -> None:
        """What goes on all the same."""
        self.write("warning", message)

    def plain_error(self, message: str) -> None:
        """As `error`, but on standard error always in plain words."""
        if self.fd != 2:
            self.write("error", message)
        print(message, file=sys.stderr)

    def error(self, message: str) -> None:
        """What ends the command: also on standard error, wherever the log goes."""
        self.write("error", message)
        if self.fd != 2:
            print(message, file=sys.stderr)


def _quoted(text: str) -> str:
    r"""As Go's %q: quotes, backslashes and control characters escaped."""
    if text and all(letter.isalnum() or letter in "-._/@^+" for letter in text):
        return text
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return (
        '"'
        + "".join(escapes.get(letter, letter if letter >= " " else f"\\x{ord(letter):02x}") for letter in text)
        + '"'
    )
