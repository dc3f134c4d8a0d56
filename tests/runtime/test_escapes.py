"""Attacks that have broken containers open, tried on ours."""

import contextlib
import ctypes
import os
import signal
import stat
import sys
import time
from pathlib import Path

import pytest

from dockyard.linux import procfs, syscalls
from dockyard.oci.runtime_spec import Hook, Hooks, IDMapping, Mount, Namespace
from dockyard.runtime.birth import sysctls
from dockyard.runtime.lifecycle.container import Container, RuntimeFailure
from tests.runtime.bundle import Bundle, apart, bind, execute, host_python, process, python

KEYCTL, SESSION_KEYRING, READ = 250, -3, 11


# -- descriptors and directories (CVE-2024-21626)


def test_nothing_of_the_runtime_is_open_in_the_program(bundle: Bundle) -> None:
    spec = bundle.spec("ls", "-l", "/proc/self/fd")

    def act() -> str:
        os.set_inheritable(os.open("/", os.O_RDONLY), True)
        with bundle.created(spec) as (container, output):
            container.start()
            os.waitpid(container.record.pid, 0)
            return os.pread(output, 1 << 16, 0).decode()

    numbers = [line.split(" -> ")[0].split()[-1] for line in apart(act).splitlines() if " -> " in line]
    assert numbers == ["0", "1", "2"]


@pytest.mark.parametrize("number", range(3, 24))
def test_a_working_directory_that_is_a_descriptor_leads_nowhere(bundle: Bundle, number: int) -> None:
    spec = bundle.spec("ls", "../../../../../../..")
    assert spec.process is not None
    spec.process.cwd = f"/proc/self/fd/{number}"
    with pytest.raises(RuntimeFailure):
        bundle.run(spec)


def test_an_exec_is_not_led_out_by_its_working_directory(bundle: Bundle) -> None:
    def act() -> list[str]:
        os.set_inheritable(os.open("/", os.O_RDONLY), True)
        found = []
        with bundle.running(bundle.spec("sleep", "100")) as (container, _):
            for number in range(3, 24):
                try:
                    result = execute(container, process("ls", ".", cwd=f"/proc/self/fd/{number}"))
                    found.append(f"{number}: {result.output}")
                except RuntimeFailure:
                    continue
        return found

    assert apart(act) == []


# -- the tree (CVE-2021-30465)


def test_links_in_the_tree_do_not_lead_mounts_out_of_it(bundle: Bundle, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (bundle.root / "in").symlink_to("../../../../../../../.." + str(outside))
    spec = bundle.spec("grep", " /in\\|outside ", "/proc/self/mountinfo")
    spec.mounts += [
        Mount(destination="/in/dir", type="tmpfs", source="tmpfs"),
        bind("/etc/hostname", "/in/file"),
    ]
    spec.process.args = ["cat", "/proc/self/mountinfo"]  # type: ignore[union-attr]
    result = bundle.run(spec)
    assert f"{outside}/dir" in result.output  # inside the tree, that is: the container's own path of that name
    assert list(outside.iterdir()) == []
    assert (bundle.root / str(outside)[1:] / "dir").is_dir()


def test_a_path_swapped_for_a_link_while_mounts_are_made_keeps_them_in_the_tree(bundle: Bundle, tmp_path: Path) -> None:
    """Two containers share a volume; in one somebody swaps a directory for a link to the root, as fast as can be.

    A hook looks at the container's mounts before the change of root, when the host's files are still there.
    """
    volume, seen = tmp_path / "volume", tmp_path / "seen"
    (volume / "real").mkdir(parents=True)
    (volume / "swap").symlink_to("/")
    seen.mkdir()
    swapper = os.fork()
    if swapper == 0:
        exchange = ctypes.CDLL(None).renameat2
        while True:
            exchange(-100, os.fsencode(volume / "real"), -100, os.fsencode(volume / "swap"), 2)
    try:
        for number in range(30):
            look = f'pid=$(sed "s/.*\\"pid\\": *\\([0-9]*\\).*/\\1/"); cat /proc/$pid/mountinfo >{seen}/{number}'
            spec = bundle.spec("true")
            hook = Hook(path="/bin/sh", args=["sh", "-c", look], env=["PATH=/bin:/usr/bin"])
            spec.hooks = Hooks(create_runtime=[hook])
            spec.mounts += [
                bind(volume, "/volume"),
                Mount(destination="/volume/real/etc", type="tmpfs", source="marked", options=["ro"]),
                Mount(destination="/volume/real/tmp", type="tmpfs", source="marked", options=["rslave"]),
            ]
            try:
                bundle.run(spec)
            except RuntimeFailure:
                continue  # what was a directory a moment ago is a link that leads nowhere: refused
    finally:
        os.kill(swapper, signal.SIGKILL)
        os.waitpid(swapper, 0)
    looks = list(seen.iterdir())
    assert looks, "no container came so far that the hook could look"
    for look_file in looks:
        marked = [line.split()[4] for line in look_file.read_text().splitlines() if " - tmpfs marked " in line]
        assert len(marked) == 2
        assert all(point.startswith(str(bundle.root) + "/") for point in marked), marked


@pytest.mark.parametrize("name", ["dev", "sys", "tmp", "etc"])
def test_a_directory_of_the_image_that_is_a_link_leads_nowhere(bundle: Bundle, tmp_path: Path, name: str) -> None:
    """runc CVE-2026-41579: devices, links and places to mount on were made where an image's /dev led to."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    before = outside.stat()
    if (bundle.root / name).exists():
        (bundle.root / name).rename(bundle.root / f"former-{name}")
    (bundle.root / name).symlink_to("../../../../../../../.." + str(outside))
    spec = bundle.spec("true")
    spec.mounts += [bind("/etc/hostname", "/etc/hostname"), Mount(destination="/tmp", type="tmpfs", source="tmpfs")]
    with contextlib.suppress(RuntimeFailure):
        bundle.run(spec)
    after = outside.stat()
    assert list(outside.iterdir()) == []
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)


def test_proc_is_not_mounted_through_a_link(bundle: Bundle) -> None:
    (bundle.root / "proc").rmdir()
    (bundle.root / "elsewhere").mkdir()
    (bundle.root / "proc").symlink_to("elsewhere")
    with pytest.raises(RuntimeFailure, match="must be mounted on ordinary directory"):
        bundle.run(bundle.spec("true"))


@pytest.mark.parametrize("place", ["/proc", "/proc/self", "/proc/sys/kernel", "/link/attr"])
def test_nothing_is_mounted_over_proc(bundle: Bundle, tmp_path: Path, place: str) -> None:
    (bundle.root / "link").symlink_to("/proc/self")
    (tmp_path / "fake").mkdir()
    spec = bundle.spec("true")
    spec.mounts.append(bind(tmp_path / "fake", place))
    with pytest.raises(RuntimeFailure, match=r"cannot be mounted|rror mounting"):
        bundle.run(spec)


# -- what guards /proc and /sys (CVE-2025-31133, CVE-2025-52565, CVE-2025-52881)


def test_a_container_whose_null_device_is_a_link_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    shared = tmp_path / "dev"
    shared.mkdir()
    (shared / "null").symlink_to("/proc/sys/kernel/core_pattern")
    for name in ("pts", "shm", "mqueue"):
        (shared / name).mkdir()
    spec = bundle.spec("true")
    spec.mounts = [mount for mount in spec.mounts if mount.destination != "/dev"]
    spec.mounts.insert(1, bind(shared, "/dev"))

    # stdio is the host's null device, which could not be replaced by the container's own
    with pytest.raises(RuntimeFailure, match="reopen /dev/null"):
        bundle.run(spec)
    with open("/proc/sys/kernel/core_pattern") as pattern:
        assert not pattern.read().startswith("/dev/null")


def test_a_null_device_of_the_image_that_is_none_is_refused(bundle: Bundle) -> None:
    (bundle.root / "dev/null").symlink_to("/proc/sysrq-trigger")
    spec = bundle.spec("true")
    spec.mounts = [mount for mount in spec.mounts if not mount.destination.startswith("/dev")]
    with pytest.raises(RuntimeFailure, match="/dev/null"):
        bundle.run(spec)


def test_masked_files_read_as_nothing_and_masked_directories_are_empty(bundle: Bundle) -> None:
    result = bundle.run(
        bundle.spec("sh", "-c", "wc -c </proc/keys; ls /sys/firmware | wc -l; stat -c %t:%T /proc/keys")
    )
    assert result.lines == ["0", "0", "1:3"]


def test_a_console_that_is_a_link_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    shared = tmp_path / "dev"
    shared.mkdir()
    (shared / "console").symlink_to("/proc/sys/kernel/hostname")
    for name in ("pts", "shm", "mqueue"):
        (shared / name).mkdir()
    spec = bundle.spec("true")
    spec.mounts = [mount for mount in spec.mounts if mount.destination != "/dev"]
    spec.mounts.insert(1, bind(shared, "/dev"))
    spec.process.terminal = True  # type: ignore[union-attr]
    with pytest.raises(RuntimeFailure, match="/dev/console is a symbolic link"):
        bundle.run(spec)


@pytest.mark.parametrize("fake", ["a FIFO", "a null device", "a link"])
def test_a_terminal_is_taken_of_a_devpts_only(bundle: Bundle, fake: str) -> None:
    pts = bundle.root / "dev/pts"
    pts.mkdir()
    if fake == "a FIFO":
        os.mkfifo(pts / "ptmx")
    elif fake == "a null device":
        os.mknod(pts / "ptmx", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    else:
        (pts / "ptmx").symlink_to("/proc/sysrq-trigger")
    spec = bundle.spec("true")
    spec.mounts = [mount for mount in spec.mounts if not mount.destination.startswith("/dev")]
    spec.process.terminal = True  # type: ignore[union-attr]
    with pytest.raises(RuntimeFailure, match="cannot allocate a terminal"):
        bundle.run(spec)


def test_our_own_files_in_proc_are_found_where_proc_is_faked(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.write_text("untouched")

    def act() -> str:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_PRIVATE | syscalls.MS_REC)
        syscalls.mount("tmpfs", "/proc", "tmpfs")
        for name in ("self", "thread-self"):
            os.makedirs(f"/proc/{name}/attr")
            os.symlink(trap, f"/proc/{name}/comm")
        procfs.write_own("comm", "renamed")
        fd = procfs.open_own("comm", os.O_RDONLY)
        return os.read(fd, 100).decode().strip()

    assert apart(act) == "renamed"
    assert trap.read_text() == "untouched"


def test_a_sysctl_is_not_written_to_what_is_mounted_over_it(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.write_text("untouched")

    def act() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_PRIVATE | syscalls.MS_REC)
        syscalls.mount(str(trap), "/proc/sys/kernel/shmmax", None, syscalls.MS_BIND)
        sysctls.apply({"kernel.shmmax": "4096"})

    with pytest.raises(RuntimeFailure, match="shmmax"):
        apart(act)
    assert trap.read_text() == "untouched"


@pytest.mark.parametrize("name", ["net/../kernel/core_pattern", "net//core", "net.//.kernel.core_pattern", "net./"])
def test_a_sysctl_s_name_does_not_lead_to_another(bundle: Bundle, name: str) -> None:
    spec = bundle.spec("true")
    spec.linux.sysctl = {name: "|/bin/false"}
    with pytest.raises(RuntimeFailure, match="not a clean name"):
        bundle.run(spec)


OF_THE_HOST = ("kernel.core_pattern", "vm.overcommit_memory", "fs.suid_dumpable", "user.max_mnt_namespaces")


@pytest.mark.parametrize("name", OF_THE_HOST)
def test_a_sysctl_of_the_host_is_refused(bundle: Bundle, name: str) -> None:
    spec = bundle.spec("true")
    spec.linux.sysctl = {name: "1"}
    with pytest.raises(RuntimeFailure):
        bundle.run(spec)


# -- the runtime's own process


def test_no_module_of_the_container_is_imported(bundle: Bundle) -> None:
    """Whatever the runtime still has to import once it is in the container's tree, it would import from there."""
    poison = "open('/poisoned', 'w').write(__file__)\nraise SystemExit(0)\n"
    for entry in sys.path:
        folder = bundle.root / entry.lstrip("/")
        if not entry or entry.endswith(".zip"):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("subprocess", "json", "traceback", "resource", "fcntl", "termios", "tty", "pty", "grp", "pwd"):
            (folder / f"{name}.py").write_text(poison)
        (folder / "encodings").mkdir(exist_ok=True)
        for name in ("__init__", "idna", "latin_1", "utf_8"):
            (folder / f"encodings/{name}.py").write_text(poison)
    spec = bundle.spec("true")
    spec.process.terminal = True  # type: ignore[union-attr]
    spec.process.user.uid = 1000  # type: ignore[union-attr]
    spec.hooks = Hooks(start_container=[Hook(path="/bin/true")])
    assert bundle.run(spec).status == 0
    spec = bundle.spec("/no/such/program")
    with pytest.raises(RuntimeFailure, match="no such file"):
        bundle.run(spec)
    assert not (bundle.root / "poisoned").exists()


def test_a_container_cannot_change_the_host_s_null_device(bundle: Bundle) -> None:
    before = os.stat("/dev/null")
    change = "for fd in 0; do chmod 000 /proc/self/fd/$fd; done"

    def act() -> None:
        with bundle.running(bundle.spec("sleep", "100")) as (container, _):
            execute(container, process("sh", "-c", change))

    try:
        bundle.run(bundle.spec("sh", "-c", change))
        apart(act)
        assert os.stat("/dev/null").st_mode == before.st_mode
    finally:
        os.chmod("/dev/null", stat.S_IMODE(before.st_mode))


def test_an_exec_cannot_be_looked_into_on_its_way(bundle: Bundle) -> None:
    """The container's first process, root with the usual capabilities, tries to open whatever comes in."""
    watch = """
import os
while True:
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or pid in ("1", str(os.getpid())):
            continue
        try:
            exe = os.readlink(f"/proc/{pid}/exe")
            if "busybox" not in exe:  # the runtime's, until execve
                print("exe", exe, flush=True)
                os.open(f"/proc/{pid}/mem", os.O_RDWR)
                print("memory", flush=True)
        except OSError:
            pass
"""
    spec = bundle.spec(*python(watch))
    host_python(spec)

    def act() -> str:
        with bundle.running(spec) as (container, output):
            time.sleep(0.3)
            for _ in range(40):
                execute(container, process("/bin/true"))
            return os.pread(output, 1 << 16, 0).decode()

    assert apart(act) == ""


def test_an_exec_is_not_held_up_by_what_it_reads_in_a_hostile_container(bundle: Bundle) -> None:
    trap = "rm -f /etc/passwd /dev/pts/x; mkfifo /etc/passwd; echo ready; sleep 100"
    (bundle.root / "bin/rm").symlink_to("busybox")

    def act() -> int:
        with bundle.running(bundle.spec("sh", "-c", trap)) as (container, output):
            while not os.pread(output, 10, 0):
                time.sleep(0.01)
            signal.alarm(10)
            return execute(container, process("true")).status

    assert apart(act) == 0


def test_a_container_whose_pid_another_process_has_got_is_not_that_process(bundle: Bundle) -> None:
    def act() -> str:
        with bundle.created(bundle.spec("true")) as (container, _):
            right = container.record.pid
            time.sleep(0.02)  # a process is known by its start time too, which is counted in hundredths of a second
            other = os.fork()
            if other == 0:
                time.sleep(100)
                os._exit(0)
            try:
                container.record.pid = other
                with pytest.raises(RuntimeFailure, match="not running"):
                    container.kill(signal.SIGKILL)
                return container.status()
            finally:
                container.record.pid = right
                assert os.waitpid(other, os.WNOHANG) == (0, 0)
                os.kill(other, signal.SIGKILL)
                os.waitpid(other, 0)

    assert apart(act) == "stopped"


# -- keyrings and groups

ASK_FOR_KEY = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
found = libc.syscall({KEYCTL}, 10, {SESSION_KEYRING}, b"user", b"dockyard-secret", 0)
print("found" if found > 0 else "none")
"""


def test_keys_of_the_runtime_s_session_are_not_the_container_s(bundle: Bundle) -> None:
    spec = bundle.spec(*python(ASK_FOR_KEY))
    host_python(spec)
    stays = bundle.spec("sleep", "100")
    host_python(stays)

    def act() -> list[str]:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall(KEYCTL, 1, b"dockyard-test")  # a session keyring to be leaked
        assert libc.syscall(248, b"user", b"dockyard-secret", b"x", 1, SESSION_KEYRING) > 0
        answers = []
        with bundle.created(spec) as (container, output):
            container.start()
            os.waitpid(container.record.pid, 0)
            answers.append(os.pread(output, 100, 0).decode().strip())
        with bundle.running(stays) as (container, _):
            answers.append(execute(container, process(*python(ASK_FOR_KEY))).output.strip())
        assert libc.syscall(KEYCTL, 10, SESSION_KEYRING, b"user", b"dockyard-secret", 0) > 0
        return answers

    assert apart(act) == ["none", "none"]


@pytest.mark.parametrize("userns", [False, True])
def test_the_runtime_s_groups_are_not_the_container_s(bundle: Bundle, userns: bool) -> None:
    spec = bundle.spec("id", "-G")
    if userns:
        spec.linux.namespaces.append(Namespace(type="user"))
        spec.linux.uid_mappings = [IDMapping(container_id=0, host_id=100000, size=65536)]
        spec.linux.gid_mappings = [IDMapping(container_id=0, host_id=100000, size=65536)]

    def act() -> str:
        os.setgroups([0, 42, 100042])
        with bundle.created(spec) as (container, output):
            container.start()
            os.waitpid(container.record.pid, 0)
            return os.pread(output, 100, 0).decode().strip()

    assert apart(act) == "0"


def test_a_failed_container_leaves_nothing(bundle: Bundle) -> None:
    spec = bundle.spec("true")
    spec.mounts.append(Mount(destination="/x", type="no-such-file-system", source="x"))
    with pytest.raises(RuntimeFailure, match=r"no-such-file-system|such device"):
        bundle.run(spec)
    assert os.listdir(bundle.state) == []
    with pytest.raises(RuntimeFailure, match="does not exist"):
        Container.load(bundle.state, f"c{bundle.number}")
