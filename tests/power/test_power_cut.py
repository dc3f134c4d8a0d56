"""The power goes at any moment: what was answered before is on the disk, and nothing that is there is thrown away.

A session of all operations is recorded on a disk that notes every write and every flush (recording_disk.py). Then the
disk is made again as each flush left it, a daemon of another boot starts on it, and what had been promised is checked.
"""

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess
from tests.power import session
from tests.power.recording_disk import Cut, Recording, RecordingDisk, mounted

SIZE = 256 << 20
SEED = int(os.environ.get("POWER_SEED", "1"))


@dataclass(frozen=True)
class Session:
    """What was recorded; `promises[n]` is what holds when the first n acts have been told to be done."""

    folder: Path
    data_root: Path
    recording: Recording
    names: Sequence[str]
    promises: Sequence[dict[str, session.Promise]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The session on its disk."""
    folder = tmp_path_factory.mktemp("power")
    disk = RecordingDisk(folder, SIZE)
    engine = EngineProcess(folder / "engine", number=8)
    engine.data_root.mkdir(parents=True)
    names, promises = ["mounted", "begin"], [dict[str, session.Promise](), dict[str, session.Promise]()]
    with disk.mounted(engine.data_root):
        disk.mark("mounted")
        engine.start()
        try:
            engine.docker("version")
            disk.mark("begin")
            for name, promised in session.play(engine):
                disk.mark(name)
                names.append(name)
                after = {**promises[-1], **promised}
                promises.append({about: promise for about, promise in after.items() if promise is not None})
            disk.mark("end")
        finally:
            engine.clean_up()
    return Session(folder, engine.data_root, Recording(disk.log), names, promises)


@contextmanager
def engine_after(recorded: Session, cut: Cut, *, later: random.Random | None = None) -> Iterator[EngineProcess]:
    """A daemon that has started, as after a boot, on what the disk is after `cut`."""
    image = recorded.folder / f"image-{cut.number}"
    recorded.recording.image(cut, image, SIZE, later=later)
    boot = recorded.folder / "boot_id"
    boot.write_text(f"00000000-0000-4000-8000-{cut.number:012}\n")
    recorded.data_root.mkdir(parents=True, exist_ok=True)
    engine = EngineProcess(recorded.data_root.parent, number=9)
    another_boot = f'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec "$@"'
    engine.prefix = ("unshare", "--mount", "--propagation", "private", "sh", "-c", another_boot, "sh")
    try:
        with mounted(image, recorded.data_root):
            engine.start()
            try:
                assert engine.process is not None
                assert engine.listener() == engine.process.pid
                yield engine
            finally:
                engine.clean_up()
    finally:
        image.unlink()


def broken(engine: EngineProcess, *accepted: dict[str, session.Promise]) -> list[str]:
    """What holds in none of the states that are `accepted`."""
    found = []
    for about in sorted(set().union(*accepted)):
        failures = []
        for state in accepted:
            try:
                if about in state:
                    state[about](engine)
                break
            except AssertionError as failure:
                failures.append(str(failure))
        else:
            found.append(f"{about}: {'; or '.join(failures)}")
    return found


@pytest.mark.timeout(300)  # the session with it
def test_what_is_answered_is_on_the_disk(recorded: Session) -> None:
    """The power goes at the moment of each answer, with nothing on the disk that had not been flushed by then."""
    cuts = recorded.recording.cuts()
    problems = []
    for number, name in enumerate(recorded.names[1:], start=1):
        cut = next(cut for cut in cuts if cut.told > number)
        before, after = recorded.promises[number - 1 : number + 1]
        promised = {about: promise for about, promise in after.items() if before.get(about) is not promise}
        with engine_after(recorded, cut) as engine:
            problems += [f"after {name}: {problem}" for problem in broken(engine, promised)]
            problems += [f"after {name}: {fault}" for fault in session.faults(engine)]
    assert not problems, "\n".join(problems)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a daemon's start for each of some two hundred flushes
@pytest.mark.parametrize("torn", [False, True], ids=["flushed", "torn"])
def test_the_power_may_go_at_every_flush(recorded: Session, torn: bool) -> None:
    """Whatever was answered holds, and of what was under way the state before or the one after.

    `torn`: of what was written after the flush some has reached the disk as well.
    """
    problems = []
    chance = random.Random(SEED)
    for cut in recorded.recording.cuts():
        here = cut.told - 1
        if here < 0 or here >= len(recorded.names) - 1:
            continue
        with engine_after(recorded, cut, later=chance if torn else None) as engine:
            for problem in broken(engine, recorded.promises[here], recorded.promises[here + 1]):
                problems.append(f"after {recorded.names[here]} (flush {cut.number}): {problem}")
            problems += [f"after {recorded.names[here]} (flush {cut.number}): {it}" for it in session.faults(engine)]
    assert not problems, f"seed {SEED}\n" + "\n".join(problems)
