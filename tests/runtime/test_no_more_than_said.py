"""What config.json says wrongly or not at all gives a container nothing that it would else not have."""

import json
import os
import stat
from pathlib import Path

import pytest

from dockyard.oci.runtime_spec import DeviceRule, Resources
from dockyard.runtime.lifecycle.container import RuntimeFailure
from dockyard.runtime.spec import defaults
from tests.runtime.bundle import Bundle, bind
from tests.runtime.conftest import Runtime

NOBODY = (1 << 32) - 1  # no id, but the largest number that the specification's type holds
# /dev/full is one that every container may use, /dev/kmsg (1:11) is not
OPEN = ": </x/full && echo full; : </x/kmsg && echo kmsg; : >/x/kmsg && echo w"


# -- users


@pytest.mark.parametrize("field", ["uid", "gid", "additional_gids"])
def test_the_number_that_is_no_id_is_refused(bundle: Bundle, field: str) -> None:
    spec = bundle.spec("id")
    assert spec.process is not None
    setattr(spec.process.user, field, [NOBODY] if field == "additional_gids" else NOBODY)
    with pytest.raises(RuntimeFailure, match="must be in range 0-4294967294"):
        bundle.run(spec)


def test_it_is_refused_in_an_exec_too(runtime: Runtime) -> None:
    name = runtime.started("one")
    for words in (("--user", str(NOBODY)), ("--user", f"0:{NOBODY}"), ("-g", str(NOBODY)), ("--user", str(1 << 40))):
        done = runtime("exec", *words, name, "id")
        assert done.returncode == 255
        assert "must be in range 0-4294967294" in done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize("where", ["process", "mappings", "device"])
def test_it_is_refused_in_a_file(runtime: Runtime, where: str) -> None:
    config = runtime.config()
    if where == "process":
        config["process"]["user"] = {"uid": NOBODY, "gid": 0}
    elif where == "mappings":
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": NOBODY, "size": 1}]
        config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 1}]
    else:
        config["linux"]["devices"] = [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "uid": NOBODY}]
    (runtime.bundle / "config.json").write_text(json.dumps(config))
    done = runtime("run", "one")
    assert done.returncode == 1
    assert "4294967294" in done.stderr


# -- devices


def opened(bundle: Bundle, resources: Resources | None) -> list[str]:
    """What a container with these resources can open of /dev/full and /dev/kmsg."""
    spec = bundle.spec("sh", "-c", f"{{ {OPEN}; }} 2>/dev/null; true")
    spec.linux.resources = resources
    assert spec.process is not None
    # without which /dev/kmsg may be closed to readers
    spec.process.capabilities = defaults.capability_sets([*defaults.DEFAULT_CAPABILITIES, "CAP_SYSLOG"])
    for name, number in (("full", 7), ("kmsg", 11)):
        if not (bundle.root / "x" / name).exists():
            os.mknod(bundle.root / "x" / name, stat.S_IFCHR | 0o666, os.makedev(1, number))
    return bundle.run(spec).lines


@pytest.mark.parametrize("resources", [None, Resources(), Resources(devices=[])])
def test_without_rules_only_the_default_devices_open(bundle: Bundle, resources: Resources | None) -> None:
    assert opened(bundle, resources) == ["full"]


@pytest.mark.parametrize("kind", ["a", "c"])
def test_a_rule_allows_what_it_says(bundle: Bundle, kind: str) -> None:
    rule = DeviceRule(allow=True, type=kind, major=1, minor=11, access="r")
    assert opened(bundle, Resources(devices=[rule])) == ["full", "kmsg"]
    whole = DeviceRule(allow=True, access="rwm")
    assert opened(bundle, Resources(devices=[whole])) == ["full", "kmsg", "w"]


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        (DeviceRule(allow=True, type="u", access="rwm"), 'invalid cgroup device type "u"'),
        (DeviceRule(allow=True, type="C", major=1, minor=3, access="r"), 'invalid cgroup device type "C"'),
        (DeviceRule(allow=True, type="c", major=1, minor=3), "device access at 0 field cannot be empty"),
        (DeviceRule(allow=False), "device access at 0 field cannot be empty"),
        (DeviceRule(allow=True, type="c", access="x"), 'invalid cgroup device access "x"'),
        (DeviceRule(allow=True, type="c", access="a"), 'invalid cgroup device access "a"'),
    ],
)
def test_a_rule_that_is_not_plain_is_refused(bundle: Bundle, rule: DeviceRule, complaint: str) -> None:
    spec = bundle.spec("true")
    spec.linux.resources = Resources(devices=[rule])
    with pytest.raises(RuntimeFailure, match=complaint):
        bundle.run(spec)


# -- mounts


@pytest.mark.parametrize("option", ["readonly", "RO", "size=1m", "noexe"])
def test_an_option_that_no_bind_mount_has_is_refused(bundle: Bundle, tmp_path: Path, option: str) -> None:
    spec = bundle.spec("touch", "/volume/x")
    spec.mounts.append(bind(tmp_path, "/volume", option))
    with pytest.raises(RuntimeFailure, match=f"cannot have any filesystem-specific options applied: {option}"):
        bundle.run(spec)
    assert not (tmp_path / "x").exists()
