"""Intel RDT, on directories that look like resctrl: no machine here has it."""

from pathlib import Path

import pytest

from dockyard.oci.runtime_spec import (
    IntelRdt,
)
from dockyard.runtime.lifecycle.container import RuntimeFailure
from dockyard.runtime.resources import intel_rdt
from tests.runtime.bundle import Bundle


@pytest.fixture
def resctrl(tmp_path: Path) -> Path:
    for folder in ("info/L3", "info/MB", "shared", "mon_groups"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "shared/schemata").write_text("    L3:0=7f0;1=1f\n    MB:0=20;1=70\n")
    return tmp_path


def test_a_class_of_service_is_joined_only_as_it_is(resctrl: Path) -> None:
    wanted = IntelRdt(clos_id="shared", l3_cache_schema="L3:1=01f;0=7f0")
    intel_rdt.check(wanted, str(resctrl))
    assert intel_rdt.join(wanted, "c1", 42, str(resctrl)) == []
    assert (resctrl / "shared/tasks").read_text() == "42"
    with pytest.raises(RuntimeFailure, match="do not say"):
        intel_rdt.join(IntelRdt(clos_id="shared", l3_cache_schema="L3:0=1;1=1f"), "c1", 42, str(resctrl))
    with pytest.raises(RuntimeFailure, match="does not exist"):
        intel_rdt.join(IntelRdt(clos_id="missing"), "c1", 42, str(resctrl))


def test_a_class_of_service_of_the_container_s_own_goes_with_it(resctrl: Path) -> None:
    wanted = IntelRdt(l3_cache_schema="L3:0=1", mem_bw_schema="MB:0=10", schemata=["L2:0=f"])
    made = intel_rdt.join(wanted, "c1", 42, str(resctrl))
    assert made == [f"{resctrl}/c1"]
    assert (resctrl / "c1/schemata").read_text() == "L3:0=1\nMB:0=10\nL2:0=f\n"
    assert (resctrl / "c1/tasks").read_text() == "42"


def test_rdt_on_a_machine_without_it_is_refused(bundle: Bundle) -> None:
    spec = bundle.spec("true")
    spec.linux.intel_rdt = IntelRdt(clos_id="x")
    with pytest.raises(RuntimeFailure, match="Intel RDT is not enabled"):
        bundle.run(spec)
