"""A data root that is damaged in every way we could think of.

The daemon starts or says in one line why not; what is whole is served; what is broken is named at the start and by
`dockyard system fsck`, which mends on request what can be mended without loss.
"""

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.engine.test_images import tar
from tests.engine_process import EngineProcess


class Victim:
    """A data root with two images and three containers, and the daemon it belongs to, which does not run."""

    def __init__(self, engine: EngineProcess) -> None:
        self.engine = engine
        self.root = engine.data_root
        engine.start()
        engine.docker("pull", "busybox")
        context = tar({"Dockerfile": b"FROM busybox\nCOPY file /file\nRUN echo more > /more\n", "file": b"x" * 100})
        engine.docker("build", "-t", "built", "-", input=context)
        self.built = engine.inspect("built")
        self.busybox = engine.inspect("busybox")["Id"]
        engine.docker("create", "--name", "whole", "busybox", "echo", "served")
        self.broken = engine.docker("create", "--name", "broken", "-v", "vol:/v", "built", "cat", "/more").strip()
        engine.docker("network", "create", "net")
        self.layers = [Path(place).parent for place in _graph(self.built)]  # the top first
        engine.stop()
        self.kept = engine.folder / "kept"
        subprocess.run(["cp", "-a", self.root, self.kept], check=True)

    def restore(self) -> None:
        """Have the data root as it was."""
        shutil.rmtree(self.root) if self.root.is_dir() else self.root.unlink()
        subprocess.run(["cp", "-a", self.kept, self.root], check=True)

    def sql(self, statement: str, *values: object) -> None:
        """Change the database."""
        with closing(sqlite3.connect(self.root / "dockyard.db")) as database:
            database.execute(statement, values)
            database.commit()

    def fsck(self, *flags: str) -> list[dict[str, str]]:
        """What `dockyard system fsck` finds."""
        done = self.engine.dockyard("system", "fsck", "--format", "{{json .}}", *flags)
        assert done.stderr == b""
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == (0 if all(row["Mended"] == "true" for row in found) else 1)
        return found


def _graph(image: dict[str, dict[str, dict[str, str]]]) -> list[str]:
    data = image["GraphDriver"]["Data"]
    return [data["UpperDir"], *data.get("LowerDir", "").split(":")]


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    engine = EngineProcess(tmp_path_factory.mktemp("damage"), number=13)
    found = Victim(engine)
    try:
        yield found
    finally:
        found.restore()
        engine.start()
        engine.clean_up()


def _file_for_folder(name: str) -> Callable[[Victim], None]:
    def harm(victim: Victim) -> None:
        path = victim.root / name
        shutil.rmtree(path)
        path.write_text("in the way")

    return harm


def _folder_for_file(name: str) -> Callable[[Victim], None]:
    def harm(victim: Victim) -> None:
        path = victim.root / name
        path.unlink(missing_ok=True)
        path.mkdir()

    return harm


def _overwrite(offset: int) -> Callable[[Victim], None]:
    def harm(victim: Victim) -> None:
        with (victim.root / "dockyard.db").open("r+b") as file:
            file.seek(offset)
            file.write(os.urandom(4096))

    return harm


def _truncate(victim: Victim) -> None:
    os.truncate(victim.root / "dockyard.db", (victim.root / "dockyard.db").stat().st_size // 2)


def _swap_root(victim: Victim) -> None:
    shutil.rmtree(victim.root)
    victim.root.write_text("")


REFUSED = {
    "the database is cut short": (_truncate, "dockyard.db is damaged"),
    "the database has another head": (_overwrite(0), "dockyard.db is damaged"),
    "a page of the database is garbage": (_overwrite(4096), "dockyard.db is damaged"),
    "the database is a directory": (_folder_for_file("dockyard.db"), "dockyard.db"),
    "the database's log is a directory": (_folder_for_file("dockyard.db-wal"), "dockyard.db-wal is a directory"),
    "the data root is a file": (_swap_root, "data is in the way"),
    "containers is a file": (_file_for_folder("containers"), "containers is in the way"),
    "volumes is a file": (_file_for_folder("volumes"), "volumes is in the way"),
    "image is a file": (_file_for_folder("image"), "image is in the way"),
    "the layers' records are a file": (_file_for_folder("image/overlay2/layerdb"), "layerdb is in the way"),
    "overlay2 is a file": (_file_for_folder("overlay2"), "overlay2 is in the way"),
    "the links of layers are a file": (_file_for_folder("overlay2/l"), "overlay2/l is in the way"),
    "tmp is a file": (_file_for_folder("tmp"), "tmp is in the way"),
    "builder is a file": (_file_for_folder("builder"), "builder is in the way"),
    "networks is a file": (_file_for_folder("networks"), "networks is in the way"),
    "plugins is a file": (_file_for_folder("plugins"), "plugins is in the way"),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_what_no_daemon_can_go_by_is_said_in_one_line(victim: Victim, damage: str) -> None:
    victim.restore()
    harm, words = REFUSED[damage]
    harm(victim)
    assert words in victim.engine.refusal()


def _row(collection: str, name: str = "") -> Callable[[Victim], None]:
    def harm(victim: Victim) -> None:
        like = {"containers": victim.broken, "images": victim.built["Id"]}.get(collection, name or "%")
        victim.sql(f"UPDATE {collection} SET document = ? WHERE key LIKE ?", b'{"id": 5, "torn', like)

    return harm


def _network_row(victim: Victim) -> None:
    victim.sql("UPDATE networks SET document = ? WHERE CAST(document AS TEXT) LIKE '%\"net\"%'", b"[]")


def _no_blob(victim: Victim) -> None:
    victim.sql("UPDATE containers SET document = 5 WHERE key = ?", victim.broken)


def _remove(path: Callable[[Victim], Path]) -> Callable[[Victim], None]:
    def harm(victim: Victim) -> None:
        found = path(victim)
        shutil.rmtree(found) if found.is_dir() and not found.is_symlink() else found.unlink()

    return harm


def _empty(path: Callable[[Victim], Path]) -> Callable[[Victim], None]:
    return lambda victim: path(victim).write_text("") and None


def _snapshot(victim: Victim) -> Path:
    return victim.root / "overlay2" / victim.broken


def _add(*names: str) -> Callable[[Victim], None]:
    def harm(victim: Victim) -> None:
        for name in names:
            (victim.root / name).write_text("junk")
            (victim.root / f"{name}-folder").mkdir()
            (victim.root / f"{name}-folder" / "file").write_text("junk")

    return harm


def _other_config(victim: Victim) -> None:
    victim.sql("UPDATE images SET document = ? WHERE key = ?", b'{"config": "e30="}', victim.built["Id"])


def _record(victim: Victim) -> Path:
    return victim.root / "image/overlay2/layerdb" / f"{victim.layers[0].name}.split"


JUNK = [
    *(f"{place}/j" for place in ("containers", "volumes", "overlay2", "overlay2/l", "image/overlay2/layerdb")),
    *(f"{place}/j" for place in ("tmp", "plugins", "builder")),
]

# what is done; what fsck says (nothing: the daemon mends it at its start); whether fsck mends it, so `broken` runs
SERVED = {
    "a container's row is torn": (_row("containers"), "containers/", True),
    "a container's row is no document": (_no_blob, "containers/", True),
    "an image's row is torn": (_row("images"), "images/", True),
    "the layers' rows are torn": (_row("layers_overlay2"), "layers_overlay2/", True),
    "the containers' layers' rows are torn": (_row("container_layers_overlay2"), "container_layers", True),
    "a volume's row is torn": (_row("volumes", "vol"), "", True),
    "a network's row is torn": (_network_row, "networks/", True),
    "all names' rows are torn": (_row("image_names"), "image_names/", True),
    "the engine's own row is torn": (_row("identity"), "", True),
    "an image's configuration is another": (_other_config, "its configuration is not", True),
    "a container's folder is gone": (_remove(lambda v: v.root / "containers" / v.broken), "folder", True),
    "a container's layer is gone": (_remove(_snapshot), "its files, is missing", False),
    "a container's lower is empty": (_empty(lambda v: _snapshot(v) / "lower"), "", True),
    "a container's lower is gone": (_remove(lambda v: _snapshot(v) / "lower"), "", True),
    "a container's work is gone": (_remove(lambda v: _snapshot(v) / "work"), "", True),
    "a layer is gone": (_remove(lambda v: v.layers[0]), "its files, is missing", False),
    "a layer's files are gone": (_remove(lambda v: v.layers[1] / "diff"), "its files, is missing", False),
    "a layer's link is empty": (_empty(lambda v: v.layers[1] / "link"), "link is missing or empty", True),
    "a layer's link is gone": (_remove(lambda v: v.layers[0] / "link"), "link is missing or empty", True),
    "a layer's lower is empty": (_empty(lambda v: v.layers[0] / "lower"), "lower does not lead", True),
    "all short names of layers are gone": (_remove(lambda v: v.root / "overlay2/l"), "does not lead to", True),
    "how a layer's archive was is lost": (_remove(_record), "cannot be pushed or saved", False),
    "junk lies about": (
        _add(*JUNK),
        "",
        True,
    ),
    "documents are junk": (
        _add("image/imagedb/j.json", "networks/j.json", "image/overlay2/layerdb/k.json", "image/names.json.new"),
        "",
        True,
    ),
    "the copies are junk": (_add("backups/dockyard.db.1x", "backups/dockyard.db.2"), "", True),
}


@pytest.mark.parametrize("damage", SERVED)
def test_what_is_whole_is_served_and_what_is_broken_is_named(victim: Victim, damage: str) -> None:
    victim.restore()
    harm, words, mended = SERVED[damage]
    harm(victim)
    engine = victim.engine
    (engine.folder / "daemon.log").unlink()
    engine.start()
    try:
        engine.docker("ps", "-a")
        if "names" not in damage:
            assert engine.docker("run", "--rm", "busybox", "echo", "fine") == "fine\n"
        whole = "containers' layers" not in damage and "the layers'" not in damage and "short names" not in damage
        if whole:
            assert engine.docker("start", "-a", "whole") == "served\n"
        found = victim.fsck()
        if words:
            assert any(words in row["Name"] + row["Problem"] for row in found), found
            assert "see dockyard system fsck" in engine.log() or "cannot be read" in engine.log()
        else:
            assert found == []
        assert all(row["Remedy"] for row in found)
        assert "Traceback" not in engine.log()
        victim.fsck("--repair")
        engine.stop()
        engine.start()
        if mended:  # a layer that was pulled meanwhile, what stands on it has now to be led to
            victim.fsck("--repair")
            assert victim.fsck() == []
        assert "Traceback" not in engine.log()
        assert engine.docker("start", "-a", "whole") == "served\n"
        if mended:
            assert engine.docker("start", "-a", "broken") == "more\n"
            assert engine.docker("run", "--rm", "built", "cat", "/more") == "more\n"
        engine.docker("rm", "-f", "broken", check=False)
        engine.docker("rmi", "-f", "built", check=False)
        context = tar({"Dockerfile": b"FROM busybox\nCOPY file /file\nRUN echo more > /more\n", "file": b"x" * 100})
        engine.docker("build", "-t", "built", "-", input=context)
        assert engine.docker("run", "--rm", "built", "cat", "/more") == "more\n"
        assert victim.fsck() == []
    finally:
        engine.stop()


def test_files_that_have_changed_are_found_by_reading_them(victim: Victim) -> None:
    victim.restore()
    with (victim.layers[1] / "diff/file").open("r+b") as file:
        file.write(b"y")
    victim.engine.start()
    try:
        assert victim.fsck() == []
        assert any("its files are not those of" in row["Problem"] for row in victim.fsck("--content"))
    finally:
        victim.engine.stop()
