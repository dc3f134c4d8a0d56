"""What the shim does with a process's output, without a process."""

import os

from dockyard.shim.log_writer import NoLog
from dockyard.shim.streams import Loop, Streams


class FullOnce(NoLog):
    """A log that is full until its forwarder has sent the rest, which happens after it was asked `times`."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.written = b""

    def full(self) -> bool:
        self.times -= 1
        return self.times >= 0

    def write(self, stream: int, data: bytes) -> None:
        self.written += data


def test_a_log_that_is_full_is_looked_at_until_it_is_not() -> None:
    # whenever room is made, between any two questions, the next round has to find out
    for times in range(1, 6):
        log, loop = FullOnce(times), Loop()
        ours, theirs = os.pipe()
        streams = Streams(loop, {ours: 1}, -1, log, terminal=False, close_stdin=False)
        os.write(theirs, b"first ")
        loop.run_once(0)
        os.write(theirs, b"second")
        for _ in range(10):
            if log.written == b"first second":
                break
            # as the shim does: it sleeps without limit unless it is told to look at the log again
            assert streams.waits_for_log or loop.epoll.poll(0), f"asleep for ever, having asked {times} times"
            loop.run_once(0)
            streams.relieved()
        assert log.written == b"first second"
        streams.close("exited")
        os.close(theirs)
