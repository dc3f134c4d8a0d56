"""Disks of power cuts are what was recorded, whoever on the machine has taken up a mount of theirs."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.power.recording_disk import Recording, RecordingDisk, mounted

SIZE = 16 << 20


@contextmanager
def another_mount_namespace() -> Iterator[None]:
    """One with a copy of every mount that there is now, as any program on the machine may make it at any time."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo made; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"made\n"
        try:
            yield
        finally:
            other.kill()


def test_the_disk_of_each_cut_is_as_recorded_although_an_earlier_one_is_mounted_elsewhere(tmp_path: Path) -> None:
    """What has been removed from the first cut is there after the second, as it is in the recording."""
    disk, place = RecordingDisk(tmp_path, SIZE), tmp_path / "place"
    with disk.mounted(place):
        (place / "file").write_text("recorded\n")
        subprocess.run(["sync", "--file-system", place], check=True)
        disk.mark("written")
    recording = Recording(disk.log)
    cut = next(cut for cut in recording.cuts() if cut.told)
    with ExitStack() as elsewhere:
        for number in (1, 2):
            image = tmp_path / f"image-{number}"
            recording.image(cut, image, SIZE)
            with mounted(image, place):
                assert (place / "file").read_text() == "recorded\n"
                elsewhere.enter_context(another_mount_namespace())
                (place / "file").unlink()


def test_a_file_that_is_mounted_elsewhere_is_not_taken_for_another_cut(tmp_path: Path) -> None:
    """It would be as that one has left it."""
    image, place = tmp_path / "image", tmp_path / "place"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    with ExitStack() as elsewhere:
        with mounted(image, place):
            elsewhere.enter_context(another_mount_namespace())
        with pytest.raises(AssertionError, match="in use"), mounted(image, place):
            pass


def test_a_recording_ends_although_its_disk_is_mounted_elsewhere(tmp_path: Path) -> None:
    """It does not wait for others to unmount it."""
    disk = RecordingDisk(tmp_path, SIZE)
    with ExitStack() as elsewhere:
        with disk.mounted(tmp_path / "place"):
            disk.mark("begin")
            elsewhere.enter_context(another_mount_namespace())
        assert Recording(disk.log).marks == ["begin"]
