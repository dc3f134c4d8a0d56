"""The stand-ins of the command line do what the real modules do."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from dockyard.oci import runtime_spec
from dockyard.runtime.spec import example
from dockyard.runtime.startup import stand_ins
from tests.runtime.conftest import ROOT

READ = """
import sys
sys.path.insert(0, {root!r})
from dockyard.runtime.startup import stand_ins
stand_ins.install()
from dockyard.oci import runtime_spec
try:
    sys.stdout.write(runtime_spec.encode(runtime_spec.decode(sys.stdin.read().encode())).decode())
except ValueError as error:
    sys.stdout.write("error: " + str(error))
"""


def read_with_stand_ins(text: str) -> str:
    words = [sys.executable, "-ISEc", READ.format(root=str(ROOT))]
    return subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout


def test_a_config_is_read_and_written_alike() -> None:
    spec = example.example_spec(own_cgroups=True)
    spec["hooks"] = {"poststart": [{"path": "/bin/true", "args": ["true"], "timeout": 5}]}
    spec["linux"]["resources"]["memory"] = {"limit": -1, "disableOOMKiller": True}
    spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1 << 63, "op": "x"}]}],
    }
    spec["mounts"].append({"destination": "/x", "uidMappings": [{"containerID": 0, "hostID": 1, "size": 2}]})
    spec["mounts"].append({"destination": "/y", "options": None})
    spec["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 3}
    text = json.dumps(spec)
    real = runtime_spec.encode(runtime_spec.decode(text.encode()))
    assert json.loads(read_with_stand_ins(text)) == json.loads(real)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"process": {"args": "a"}}',
        '{"process": {"args": [1]}}',
        '{"process": {"terminal": 1}}',
        '{"mounts": [{}]}',
        '{"linux": {"namespaces": {}}}',
        '{"process": {"user": {"uid": -1}}}',
        '{"process": {"consoleSize": {"height": 70000}}}',
        '{"linux": {"uidMappings": [{"containerID": "x"}]}}',
    ],
)
def test_what_is_wrong_with_a_config_is_told_alike(text: str) -> None:
    with pytest.raises(msgspec.DecodeError) as real:
        runtime_spec.decode(text.encode())
    said = read_with_stand_ins(text)
    assert said.startswith("error: ")
    if not str(real.value).startswith("JSON is malformed") and "truncated" not in str(real.value):
        assert said == f"error: {real.value}"


def test_a_key_is_known_in_any_case_as_in_go() -> None:
    text = '{"linux": {"resources": {"hugepageLimits": [{"pagesize": "2MB", "limit": 5}]}}}'
    assert '"hugepageLimits":[{"pageSize":"2MB","limit":5}]' in read_with_stand_ins(text)


def test_the_stand_ins_have_every_name_that_our_modules_use() -> None:
    """A name that they lack would import the real module, at worst in the container's tree, where it can't."""
    stand_in_names = _stand_ins()
    for path in [*ROOT.glob("dockyard/runtime/**/*.py"), *ROOT.glob("dockyard/linux/*.py")]:
        for module, name in _uses(path):
            if module in stand_in_names and (module, name) not in RARE:
                assert name in stand_in_names[module], f"{path}: {module}.{name}"


# Where a command may take its time.
RARE = {("socket", "AF_NETLINK"), ("ctypes", "cast"), ("ctypes", "POINTER")}


def _stand_ins() -> dict[str, set[str]]:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from dockyard.runtime.startup import stand_ins; stand_ins.install(); import json\n"
        "found = {n: sorted(vars(m)) for n, m in sys.modules.items() if type(m).__name__ == '_StandIn'}\n"
        "import dockyard.runtime.startup.quick_ctypes as quick\n"
        "found['ctypes'] = sorted(vars(quick))\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-ISEc", code], capture_output=True, text=True, check=True)
    return {name: set(names) for name, names in json.loads(done.stdout).items()}


def _uses(path: Path) -> list[tuple[str, str]]:
    tree = ast.parse(path.read_text())
    imported = {
        alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    found = [
        (node.module or "", alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and path.name != "stand_ins.py"
        for alias in node.names
    ]
    found += [
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported
    ]
    return found


def test_small_things_behave_as_the_librarys() -> None:
    order = []
    with stand_ins.ExitStack() as stack:
        stack.callback(order.append, 1)
        stack.callback(order.append, 2)
    assert order == [2, 1]
    with stand_ins.suppress(KeyError):
        raise KeyError
    with pytest.raises(ValueError), stand_ins.suppress(KeyError):
        raise ValueError

    @stand_ins.contextmanager
    def managed():  # type: ignore[no-untyped-def]
        order.append(3)
        try:
            yield 4
        finally:
            order.append(5)

    def fail(value: int) -> None:
        order.append(value)
        raise ValueError

    with pytest.raises(ValueError), managed() as value:
        fail(value)
    assert order == [2, 1, 3, 4, 5]


def test_functions_of_the_c_library_are_called_alike() -> None:
    called = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from dockyard.runtime.startup import stand_ins; stand_ins.install(); import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.strtoll.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)\n"
        "libc.strtoll.restype = ctypes.c_int64\n"
        "print(libc.strtoll(b'-9000000000', None, 10), libc.close(-1), ctypes.get_errno())\n"
        "pair = (ctypes.c_uint32 * 2)(1, 2)\n"
        "print(list(pair), ctypes.sizeof(pair), ctypes.create_string_buffer(b'ab', 4).raw)\n"
        "print(ctypes.create_string_buffer(b'ab').raw, ctypes.addressof(pair) > 0)\n"
        "ctypes.pythonapi.PyErr_CheckSignals()\n"
        "print(type(sys.modules['ctypes']).__name__)"
    )
    done = subprocess.run([sys.executable, "-ISEc", called], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "-9000000000 -1 9",
        "[1, 2] 8 b'ab\\x00\\x00'",
        "b'ab\\x00' True",
        "_Ctypes",
    ]


def test_a_device_filter_is_loaded_through_them() -> None:
    loaded = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from dockyard.runtime.startup import stand_ins; stand_ins.install(); import os\n"
        "from dockyard.runtime.resources import device_filter; from dockyard.runtime.spec import defaults\n"
        "fd = device_filter._load(device_filter.program(defaults.DEVICE_RULES))\n"
        "print(os.readlink(f'/proc/self/fd/{fd}'), type(sys.modules['ctypes']).__name__)"
    )
    done = subprocess.run([sys.executable, "-ISEc", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["anon_inode:bpf-prog", "_Ctypes"]
