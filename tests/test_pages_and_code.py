"""What the pages say of where things are is so: files that they name exist, and rooms stand in the order they say."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
# where the paths in the pages begin; docs/runtime.md has those of the runtime
PLACES = (ROOT, ROOT / "dockyard", ROOT / "dockyard/runtime")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


def test_every_file_that_a_page_names_is_there() -> None:
    named = {
        (page.name, path) for page in PAGES for path in re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.py)\b", page.read_text())
    }
    assert len(named) > 100
    assert not [one for one in sorted(named) if not any((place / one[1]).is_file() for place in PLACES)]


def test_the_rooms_stand_in_the_page_in_the_order_that_lint_keeps() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one.get("containers") == ["dockyard"])
    floor = {
        room.strip(): index
        for index, layer in enumerate(reversed(layers))
        for room in layer.split("|")
        if ":" not in layer  # the small modules
    }
    shown = re.findall(r"^    dockyard/(\w+)/ ", (ROOT / "docs/architecture.md").read_text(), re.M)
    assert set(shown) == set(floor)
    assert [floor[room] for room in shown] == sorted(floor[room] for room in shown)
