"""What `system df` tells is what du finds."""

import os
import stat
import subprocess
from pathlib import Path

from tests.engine_process import EngineProcess

MB = 1_000_000


def files_below(folder: Path, *, links: bool = False) -> int:
    """Bytes of all files below (with `links`, of symlinks, too), hard links once; as `du --apparent-size` has them."""
    seen, total = set(), 0
    for top, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(top, name))
            if (status.st_dev, status.st_ino) in seen or (stat.S_ISLNK(status.st_mode) and not links):
                continue
            seen.add((status.st_dev, status.st_ino))
            total += status.st_size
    return total


def test_what_df_tells_is_what_du_finds(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path, number=34)
    try:
        engine.start()
        engine.docker("pull", "busybox")
        context = tmp_path / "context"
        context.mkdir()
        (context / "Dockerfile").write_text(
            "FROM busybox AS made\n"
            "RUN dd if=/dev/urandom of=/big bs=1000000 count=20 && ln /big /link && ln -s /big /symlink\n"
            "FROM made\n"
            "RUN --mount=type=cache,target=/c dd if=/dev/urandom of=/c/cached bs=1000000 count=7\n"
            "COPY file /file\n"
        )
        (context / "file").write_bytes(os.urandom(3 * MB))
        engine.dockyard("build", "-t", "built", str(context))
        write = "dd if=/dev/urandom of=/mine bs=1000000 count=5; dd if=/dev/urandom of=/v/x bs=1000000 count=9"
        engine.docker("run", "--name", "writer", "-v", "data:/v", "built", "sh", "-c", write)
        # half of a layer that is removed stays with what else has it
        engine.docker("tag", "built", "again")
        engine.docker("rmi", "built")
        told = engine.api("GET", "/system/df")[1]

        snapshots = engine.data_root / "overlay2"
        (writer,) = [one for one in told["Containers"] if one["Names"] == ["/writer"]]
        upper = Path(engine.docker("inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", "writer").strip())
        own = {upper.parent.name, f"{upper.parent.name}-init"}
        layers = sum(
            files_below(one / "diff") for one in snapshots.iterdir() if one.name not in own and one.name != "l"
        )
        assert told["LayersSize"] == layers
        assert writer["SizeRw"] == files_below(upper, links=True)
        (volume,) = told["Volumes"]
        assert volume["UsageData"]["Size"] == files_below(Path(volume["Mountpoint"]), links=True)
        mounts = [entry for entry in told["BuildCache"] if entry["Type"] == "exec.cachemount"]
        assert sum(entry["Size"] for entry in mounts) >= 7 * MB
        assert max(image["Size"] for image in told["Images"]) <= told["LayersSize"]

        contexts = sum(entry["Size"] for entry in told["BuildCache"] if entry["Type"] == "source.local")
        sum_told = (
            told["LayersSize"]
            + writer["SizeRw"]
            + volume["UsageData"]["Size"]
            + sum(entry["Size"] for entry in mounts)
            + contexts
        )
        found = int(subprocess.check_output(["du", "-s", "-B1", str(engine.data_root)]).split()[0])
        # beside what is told there are the database with its room for a full disk, records of archives, and directories
        assert 0 <= found - sum_told < 24 * MB, subprocess.check_output(
            ["du", "-B1", "-d2", str(engine.data_root)]
        ).decode()
        for name in ("writer",):
            engine.docker("rm", "-v", name)
        engine.docker("volume", "rm", "data")
        engine.docker("system", "prune", "-af")
        left = engine.api("GET", "/system/df")[1]
        assert left["LayersSize"] == 0
        assert not left["Images"]
        assert not left["BuildCache"]
        assert [one.name for one in snapshots.iterdir() if one.name != "l"] == []
        rest = int(subprocess.check_output(["du", "-s", "-B1", str(engine.data_root)]).split()[0])
        assert rest < 24 * MB
    finally:
        engine.clean_up()
