"""One budget over images, build cache and logs: what was used longest ago goes, what is in use stays."""

import io
import json
import os
import signal
import subprocess
import tarfile
from pathlib import Path

from tests.engine_process import EngineProcess
from tests.processes import eventually

MB = 1_000_000


def root_file_system(size: int, mark: str) -> bytes:
    """A tar with a file of `size` bytes that no other has."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(mark)
        member.size = size
        archive.addfile(member, io.BytesIO(os.urandom(16) + b"x" * (size - 16)))
    return buffer.getvalue()


def imported(engine: EngineProcess, name: str, size: int) -> None:
    subprocess.run(
        ["docker", "import", "-", name],
        input=root_file_system(size, name),
        env={**os.environ, "DOCKER_HOST": engine.host},
        check=True,
        capture_output=True,
    )


def hang_up(engine: EngineProcess) -> None:
    """Have the daemon read its settings again."""
    assert engine.process is not None
    engine.process.send_signal(signal.SIGHUP)


def cached(engine: EngineProcess) -> int:
    """Bytes in the build cache."""
    return sum(entry["Size"] for entry in engine.api("GET", "/system/df?type=build-cache")[1]["BuildCache"])


def log_files(engine: EngineProcess, container: str) -> list[Path]:
    folder = Path(engine.docker("inspect", "-f", "{{.LogPath}}", container).strip()).parent
    return sorted(folder.glob("*-json.log*"))


def test_what_was_used_longest_ago_goes_and_what_is_in_use_stays(tmp_path: Path) -> None:
    settings = tmp_path / "daemon.json"
    settings.write_text("{}")
    engine = EngineProcess(tmp_path, number=33, arguments=("--config-file", str(settings)))
    try:
        engine.start()
        engine.docker("pull", "busybox")
        rotated = ("--log-opt", "max-size=1m", "--log-opt", "max-file=4")
        write = "i=0; while [ $i -lt 30000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done"
        engine.docker("run", "--name", "ended", *rotated, "busybox", "sh", "-c", write)
        engine.docker("run", "-d", "--name", "talks", *rotated, "busybox", "sh", "-c", f"{write}; sleep 1000")
        eventually(lambda: engine.docker("logs", "--tail", "1", "talks").strip(), 120)
        imported(engine, "old", 40 * MB)
        context = tmp_path / "context"
        context.mkdir()
        (context / "Dockerfile").write_text(
            "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1000000 count=30\nRUN rm /big\n"
        )
        engine.dockyard("build", "-q", str(context))
        assert cached(engine) >= 30 * MB
        imported(engine, "used", 40 * MB)
        imported(engine, "new", 40 * MB)
        engine.docker("create", "--name", "made", "used", "x")
        assert len(log_files(engine, "ended")) > 1

        settings.write_text(json.dumps({"cleanup-budget": "100MB", "cleanup-keep": "0s"}))
        hang_up(engine)

        def names() -> set[str]:
            return set(engine.docker("images", "--format", "{{.Repository}}").split())

        eventually(lambda: "old" not in names(), 120)
        eventually(lambda: cached(engine) < 30 * MB, 120)
        assert {"used", "new", "busybox"} <= names()
        assert engine.docker("logs", "ended") == ""
        eventually(lambda: [file.stat().st_size for file in log_files(engine, "ended")] == [0], 120)
        assert engine.docker("logs", "--tail", "1", "talks").strip()
        assert engine.docker("start", "-a", "ended").count("\n") == 30000
        engine.docker("run", "--rm", "busybox", "true")

        # what is in use is more than the budget: nothing else goes, and nothing breaks
        settings.write_text(json.dumps({"cleanup-budget": "100MB", "cleanup-keep": "1h"}))
        hang_up(engine)
        imported(engine, "more", 70 * MB)
        eventually(lambda: "more" in names())
        assert {"used", "new", "more"} <= names()
    finally:
        engine.clean_up()
