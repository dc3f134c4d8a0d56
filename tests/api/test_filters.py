"""Lists and events show what their filters say, and nothing is let through by a filter that can't be."""

import json
import time
from typing import Any
from urllib.parse import quote

import pytest

from dockyard.errors import InvalidParameter
from dockyard.timestamps import SECOND, duration, moment, unix_time
from tests.engine_process import EngineProcess


def listed(engine: EngineProcess, filters: dict[str, list[str]], further: str = "&all=1") -> Any:
    status, found = engine.api("GET", f"/containers/json?filters={quote(json.dumps(filters))}{further}")
    return sorted(entry["Names"][0][1:] for entry in found) if status == 200 else (status, found["message"])


def test_every_filter_of_a_list_selects_what_it_says(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "flt-up", "-l", "shade=dark", "--expose", "7000", "busybox", "sleep", "100")
    engine.docker("run", "--name", "flt-down", "-l", "shade=light", "-v", "/data", "busybox", "sh", "-c", "exit 3",
                  check=False)  # fmt: skip
    ours = {"name": ["flt-"]}
    both = ["flt-down", "flt-up"]
    full_id = engine.inspect("flt-up")["Id"]
    for filters, expected in (
        ({"name": ["^/flt-u"]}, ["flt-up"]),
        ({"id": [full_id[:10]]}, ["flt-up"]),
        ({**ours, "label": ["shade"]}, both),
        ({**ours, "label": ["shade=dark"]}, ["flt-up"]),
        ({**ours, "label": ["shade=dark", "nothing"]}, []),
        ({**ours, "status": ["exited"]}, ["flt-down"]),
        ({**ours, "exited": ["3"]}, ["flt-down"]),
        ({**ours, "exited": ["0"]}, []),
        ({**ours, "ancestor": ["busybox"]}, both),
        ({**ours, "ancestor": ["no-such-image"]}, []),
        ({**ours, "expose": ["6990-7010"]}, ["flt-up"]),
        ({**ours, "expose": ["7000/udp"]}, []),
        ({**ours, "volume": ["/data"]}, ["flt-down"]),
        ({**ours, "network": ["bridge"]}, both),
        ({**ours, "health": ["none"]}, both),
        ({**ours, "is-task": ["true"]}, []),
        ({**ours, "before": ["flt-down"]}, ["flt-up"]),
        ({**ours, "since": ["flt-up"]}, ["flt-down"]),
        ({"name": ["("]}, []),
    ):
        assert listed(engine, filters) == expected, filters
    assert listed(engine, ours, "") == ["flt-up"]
    assert listed(engine, {**ours, "status": ["exited"]}, "") == ["flt-down"]
    engine.docker("rm", "-f", "-v", "flt-up", "flt-down")


def test_a_filter_that_can_not_be_is_refused(engine: EngineProcess) -> None:
    assert listed(engine, {"colour": ["red"]}) == (400, "invalid filter 'colour'")
    assert listed(engine, {"before": ["nobody"]}) == (404, "No such container: nobody")
    for name, value in (("status", "x"), ("health", "x"), ("exited", "x"), ("publish", "99999"), ("is-task", "x")):
        assert listed(engine, {name: [value]})[0] == 400, name


def test_events_are_told_again_and_selected(engine: EngineProcess) -> None:
    begin = f"{time.time():.9f}"
    engine.docker("run", "--name", "evt", "-l", "kind=test", "busybox", "true")
    engine.docker("rm", "evt")
    end = f"{time.time():.9f}"

    def actions(filters: dict[str, list[str]]) -> list[str]:
        path = f"/events?since={begin}&until={end}&filters={quote(json.dumps(filters))}"
        text = _text(engine, path)
        return [json.loads(line)["Action"] for line in text.splitlines()]

    assert actions({"container": ["evt"], "type": ["container"]}) == ["create", "attach", "start", "die", "destroy"]
    assert actions({"event": ["die", "start"], "label": ["kind=test"]}) == ["start", "die"]
    assert actions({"image": ["busybox"], "event": ["create"]}) == ["create"]
    assert actions({"event": ["exec_create"], "container": ["evt"]}) == []


def test_an_event_of_an_exec_is_found_without_its_command(engine: EngineProcess) -> None:
    begin = f"{time.time():.9f}"
    engine.docker("run", "-d", "--name", "evx", "busybox", "sleep", "100")
    engine.docker("exec", "evx", "echo", "hi")
    filters = quote(json.dumps({"event": ["exec_create", "exec_die"], "container": ["evx"]}))
    deadline = time.monotonic() + 10
    found: list[Any] = []
    while len(found) < 2 and time.monotonic() < deadline:
        text = _text(engine, f"/events?since={begin}&until={time.time():.9f}&filters={filters}")
        found = [json.loads(line) for line in text.splitlines()]
    engine.docker("rm", "-f", "evx")
    assert [event["Action"] for event in found] == ["exec_create: echo hi", "exec_die"]
    assert found[1]["Actor"]["Attributes"]["exitCode"] == "0"
    assert found[0]["Actor"]["Attributes"]["execID"] == found[1]["Actor"]["Attributes"]["execID"]


def _text(engine: EngineProcess, path: str) -> str:
    _, answer = engine.api("GET", path)
    return answer if isinstance(answer, str) else json.dumps(answer)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1h30m", 5400 * SECOND),
        ("1.5s", 3 * SECOND // 2),
        ("-2m", -120 * SECOND),
        ("100ms", SECOND // 10),
        ("0", 0),
        ("5", None),
        ("1d", None),
        ("", None),
    ],
)
def test_durations_are_gos(text: str, expected: int | None) -> None:
    assert duration(text) == expected


def test_times_are_taken_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    expected = 1_136_214_245 * SECOND
    for text in ("2006-01-02T15:04:05Z", "2006-01-02T16:04:05+01:00", "2006-01-02T15:04:05", "1136214245"):
        assert moment(text) == expected
        assert unix_time(text, "since") == expected
    assert moment("2006-01-02T15:04:05.123456789Z") == expected + 123456789
    assert moment("1136214245.000000007") == expected + 7
    assert moment("2006-01-02") == 1_136_160_000 * SECOND
    assert moment("2006-01-02T15") == 1_136_214_000 * SECOND
    assert moment("2006-01-02Z") == 1_136_160_000 * SECOND
    assert abs(time.time_ns() - 600 * SECOND - moment("10m")) < SECOND
    for bad in ("yesterday", "", "2006-13-02", "12:00"):
        with pytest.raises(InvalidParameter):
            moment(bad)
