"""The process that sends containers' logs to log servers: it follows the files that the shims write.

One per daemon, started when the first container needs it, apart from daemon and shims, so that neither a slow log
server nor a chatty container holds either of them up. What has been sent is noted in a file beside the log, so that
after a crash of anything the rest is sent, at worst a moment of it twice. In mode blocking an entry waits, in its file,
for a server that does not take it, and when the files are full the container waits, too (log_backlog.py); in mode
non-blocking all but the newest `buffer` bytes are passed over.

It reads JSON objects, a line each, on stdin: {"id", "path", "checkpoint", "driver", "options", "buffer", "identity"} to
begin, {"id", "ended": true} when a container writes no more, {"id", "removed": true} when its log is gone; and writes
an id a line to stdout when its log is sent.
"""

import binascii
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any, BinaryIO

from dockyard.shim.log_senders import Entry, Identity, Sender, make_sender

INTERVAL = 0.1  # how often a log is looked at, s
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # between attempts to reach a server, s
BLOCK = 1 << 20
NOTED = 256 << 10  # after how many bytes it is noted how far has been sent, however much there is still to send
NOTE_SIZE = 64


class Follower:
    """Follows one container's log, in a thread."""

    def __init__(self, order: dict[str, Any], done: threading.Lock, before: "Follower | None") -> None:
        """`before` sent what an earlier run of the container has written, and is waited for."""
        self._before = before
        self.id: str = order["id"]
        self._path: str = order["path"]
        self._checkpoint: str = order["checkpoint"]
        self._buffer: int = order["buffer"]
        self._sender: Sender = make_sender(order["driver"], order["options"], Identity(**order["identity"]))
        self._done = done
        self._ended = threading.Event()
        self._quit = threading.Event()
        self._file: BinaryIO | None = None
        self._position = 0
        self._saved = (0, 0)
        self._note = -1
        self.thread = threading.Thread(target=self._run, name=self.id[:12], daemon=True)

    def end(self) -> None:
        """The container writes no more."""
        self._ended.set()

    def quit(self) -> None:
        """Stop soon; the next forwarder goes on from here, if there is still something to send."""
        self._quit.set()
        self._ended.set()

    def _run(self) -> None:
        try:
            if self._before is not None:
                self._before.thread.join()
                self._before = None
            self._resume()
            while True:
                over = self._ended.is_set()  # asked before reading: what was written before is then surely read
                for entry, position in self._entries():
                    if not self._deliver(entry):
                        return
                    self._position = position
                    if not self._saved[1] <= position < self._saved[1] + NOTED:
                        self._save()
                self._save()
                if over:
                    return
                self._ended.wait(INTERVAL)
        except (OSError, ValueError) as error:
            print(f"log of {self.id[:12]}: {error}", file=sys.stderr, flush=True)
        finally:
            self._save()
            self._sender.close()
            if self._file is not None:
                self._file.close()
            if self._note >= 0:
                os.close(self._note)
            with self._done, contextlib.suppress(BrokenPipeError):  # the daemon has been killed
                print(self.id, flush=True)

    # -- reading

    def _resume(self) -> None:
        """Open the file that was last sent from, or the oldest there is."""
        try:
            with open(self._checkpoint) as file:
                inode, position = json.load(file)
        except (OSError, ValueError):
            inode, position = 0, 0
        for wanted in (inode, 0):  # when what had been reached is rotated away, the oldest that is left
            for name in self._names():
                try:
                    file_ = open(name, "rb")  # noqa: SIM115  # followed for as long as the container lives
                except FileNotFoundError:
                    continue
                if not wanted or os.fstat(file_.fileno()).st_ino == wanted:
                    self._file, self._position = file_, position if wanted else 0
                    return
                file_.close()

    def _names(self) -> Iterator[str]:
        """The log's files, the oldest first."""
        folder, name = os.path.split(self._path)
        numbers = []
        for other in os.listdir(folder):
            suffix = other.removeprefix(name + ".")
            if other.startswith(name + ".") and suffix.isdigit():
                numbers.append(int(suffix))
        for number in sorted(numbers, reverse=True):
            yield f"{self._path}.{number}"
        yield self._path

    def _entries(self) -> Iterator[tuple[Entry, int]]:
        """(entry, where the next one begins) of all that is there now."""
        while self._file is not None or self._open_first():
            assert self._file is not None
            self._skip()
            self._file.seek(self._position)
            begin = position = self._position
            data = self._file.read(BLOCK)
            for row in data.splitlines(keepends=True):
                if not row.endswith(b"\n"):
                    break
                position += len(row)
                entry = _entry(row)
                if entry is not None:
                    yield entry, position
                else:
                    self._position = position
            if len(data) == BLOCK:
                continue
            following = self._following()
            if following is None:
                return
            # looked for after reading: only now is it sure that this file grows no more
            if os.fstat(self._file.fileno()).st_size <= begin + len(data):
                # noted before it is closed: then its inode may be another's
                sent, self._file, self._position = self._file, following, 0
                self._save()
                sent.close()
            else:
                following.close()

    def _skip(self) -> None:
        """Mode non-blocking: pass over what is more than the buffer would hold."""
        assert self._file is not None
        size = os.fstat(self._file.fileno()).st_size
        if self._buffer and size - self._position > max(self._buffer, BLOCK):
            self._file.seek(size - self._buffer)
            self._position = size - self._buffer + len(self._file.readline())

    def _open_first(self) -> bool:
        """Whether there is a file by now: the oldest, for a quick container has filled the first already."""
        self._file, self._position = self._following(), 0
        return self._file is not None

    def _following(self) -> BinaryIO | None:
        """The file after the one that is open, the oldest if none is; None when there is none newer."""
        ours = os.fstat(self._file.fileno()).st_ino if self._file is not None else 0
        while True:
            files = self._files()
            inodes = [inode for _, inode in files]
            # ours may be rotated away already, but then none that comes after it: the oldest is next
            later = files[inodes.index(ours) + 1 :] if ours in inodes else files
            if not later:
                return None
            try:
                file = open(later[0][0], "rb")  # noqa: SIM115  # followed like the first one
            except FileNotFoundError:
                continue
            if os.fstat(file.fileno()).st_ino == later[0][1] and self._files() == files:
                return file
            file.close()  # rotated while we looked: the names have been other files'

    def _files(self) -> list[tuple[str, int]]:
        """Names and inodes, the oldest first."""
        found = []
        for name in self._names():
            try:
                found.append((name, os.stat(name).st_ino))
            except FileNotFoundError:
                continue
        return found

    # -- sending

    def _deliver(self, entry: Entry) -> bool:
        """Send it, however long it takes. False when that is given up."""
        pause = FIRST_PAUSE
        while True:
            try:
                self._sender.send(entry)
            except OSError as error:
                if self._quit.is_set():
                    print(f"log of {self.id[:12]}: not sent: {error}", file=sys.stderr, flush=True)
                    return False
                if self._buffer and self._file is not None:
                    size = os.fstat(self._file.fileno()).st_size
                    if size - self._position > self._buffer:
                        return True  # mode non-blocking: the newer entries are wanted more
                self._quit.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                return True

    def _save(self) -> None:
        if self._file is None:
            return
        now = (os.fstat(self._file.fileno()).st_ino, self._position)
        if now == self._saved:
            return
        try:
            if self._note < 0:
                self._note = os.open(self._checkpoint, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
            # in place and always as long: it must be possible on a full disk
            os.pwrite(self._note, json.dumps(now).ljust(NOTE_SIZE - 1).encode() + b"\n", 0)
            self._saved = now
        except OSError:
            pass  # the container is removed


def _entry(row: bytes) -> Entry | None:
    """A row of the log as it is sent; None when it is damaged."""
    try:
        found = json.loads(row)
        text: str = found["log"]
        whole, _, fraction = found["time"].removesuffix("Z").partition(".")
        line = binascii.a2b_base64(found["raw"]) if "raw" in found else text.encode("utf-8", "surrogatepass")
        seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    time_ns = seconds * 10**9 + int((fraction + "0" * 9)[:9])
    return Entry(line.removesuffix(b"\n"), found.get("stream", "stdout"), time_ns, partial=not text.endswith("\n"))


def main() -> None:
    """Serve the daemon at stdin until it hangs up; then send what is there, note how far, and end."""
    followers: dict[str, Follower] = {}
    done = threading.Lock()
    for line in sys.stdin:
        order = json.loads(line)
        follower = followers.get(order["id"])
        if "removed" in order:
            if follower is not None:
                follower.quit()
        elif "ended" in order:
            if follower is not None:
                follower.end()
        else:
            if follower is not None:
                follower.end()
            follower = followers[order["id"]] = Follower(order, done, follower)
            follower.thread.start()
        followers = {key: one for key, one in followers.items() if one.thread.is_alive()}
    for follower in followers.values():
        follower.quit()
    deadline = time.monotonic() + 3
    for follower in followers.values():
        follower.thread.join(max(deadline - time.monotonic(), 0))
    os._exit(0)  # a thread that hangs in a send does not keep us


if __name__ == "__main__":
    main()
