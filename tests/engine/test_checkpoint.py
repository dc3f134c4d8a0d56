"""What a daemon makes of the checkpoints that another has left half written."""

from pathlib import Path

from dockyard.engine.containers.checkpoint_folder import FILE, partial_of, sweep


def half(root: Path, name: str, *files: str) -> Path:
    place = partial_of(root / name)
    place.mkdir(parents=True)
    for file in files:
        (place / file).touch()
    return place


def test_what_is_half_written_goes(tmp_path: Path) -> None:
    begun = half(tmp_path, "begun", FILE, "core-1.img")
    (tmp_path / "whole").mkdir()
    assert sweep(tmp_path, ended=True) == [begun]
    assert sweep(tmp_path / "none", ended=True) == []


def test_what_another_runtime_has_finished_without_us_is_kept(tmp_path: Path) -> None:
    place = half(tmp_path, "whole", FILE, "core-1.img", "inventory.img")
    assert sweep(tmp_path, ended=False) == [place]  # its processes go on: nobody was told of it
    assert sweep(tmp_path, ended=True) == []
    assert (tmp_path / "whole" / "inventory.img").exists()
