"""A file system of a few megabytes, and how to fill it to the last byte."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Where a file system of `size` bytes is mounted, for the time of the block."""
    image, place = folder / "disk", folder / "root"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        for patience in range(600):  # processes that have been killed may still be ending
            if subprocess.run(["umount", place], check=patience == 599, capture_output=True).returncode == 0:
                break
            time.sleep(0.1)


def fill(ballast: Path) -> None:
    """Let the file `ballast` take all the room there is."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 16, 1 << 12, 1 << 10, 1):
            try:
                while True:
                    file.write(b"x" * size)
                    os.fsync(file.fileno())
            except OSError:
                pass
