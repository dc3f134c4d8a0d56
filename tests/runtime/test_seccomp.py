"""Seccomp: actions, compared arguments, agents."""

import ctypes
import errno
import json
import os
import platform
import socket
import struct
import tempfile
import threading
from typing import Any

import pytest

from dockyard.linux import seccomp
from dockyard.oci.runtime_spec import (
    Mount,
    Seccomp,
    SeccompArg,
    SeccompRule,
    Spec,
)
from dockyard.runtime.lifecycle.container import RuntimeFailure
from dockyard.runtime.spec.defaults import DEFAULT_CAPABILITIES, default_seccomp
from tests.runtime.bundle import (
    Bundle,
    apart,
    execute,
    host_python,
    process,
    python,
)


def filtered(bundle: Bundle, rule: SeccompRule, *args: str, default: str = "SCMP_ACT_ALLOW", **others: Any) -> Spec:
    spec = bundle.spec(*args)
    spec.linux.seccomp = Seccomp(default_action=default, syscalls=[rule], **others)
    return spec


@pytest.mark.parametrize("no_new_privileges", [False, True])
@pytest.mark.parametrize("uid", [0, 1000])
def test_seccomp_actions(bundle: Bundle, no_new_privileges: bool, uid: int) -> None:
    for action, errno_ret, expected in (
        ("SCMP_ACT_ERRNO", 38, "mkdir: can't create directory '/tmp/x': Function not implemented"),
        ("SCMP_ACT_ERRNO", None, "mkdir: can't create directory '/tmp/x': Operation not permitted"),
        ("SCMP_ACT_KILL_PROCESS", None, "Bad system call"),
        ("SCMP_ACT_TRAP", None, "Bad system call"),
        ("SCMP_ACT_LOG", None, ""),
        ("SCMP_ACT_TRACE", None, "mkdir: can't create directory '/tmp/x': Function not implemented"),
    ):
        rule = SeccompRule(names=["mkdir", "mkdirat"], action=action, errno_ret=errno_ret)
        spec = filtered(bundle, rule, "sh", "-c", "mkdir /tmp/x; true")
        spec.mounts.append(Mount(destination="/tmp", type="tmpfs", source="tmpfs", options=["mode=1777"]))
        assert spec.process is not None
        spec.process.no_new_privileges = no_new_privileges
        spec.process.user.uid = uid
        output = bundle.run(spec).output
        assert expected in output if expected else output == ""


def test_a_filter_need_not_allow_what_the_runtime_does(bundle: Bundle) -> None:
    """Only what follows it: setting capabilities, and the program."""
    never = ["setresuid", "setresgid", "setgroups", "chdir", "recvmsg", "sendmsg", "close_range", "openat2"]
    for uid in (0, 1000):
        spec = filtered(bundle, SeccompRule(names=never, action="SCMP_ACT_KILL_PROCESS"), "true")
        assert spec.process is not None
        assert spec.process.capabilities is not None
        spec.process.user.uid = uid
        spec.process.no_new_privileges = True
        assert bundle.run(spec).status == 0


def test_arguments_of_calls_are_compared(bundle: Bundle) -> None:
    for operator, value, two, refused in (
        ("SCMP_CMP_EQ", 0o700, 0, True),
        ("SCMP_CMP_NE", 0o700, 0, False),
        ("SCMP_CMP_LT", 0o701, 0, True),
        ("SCMP_CMP_LE", 0o677, 0, False),
        ("SCMP_CMP_GT", 0o700, 0, False),
        ("SCMP_CMP_GE", 0o700, 0, True),
        ("SCMP_CMP_MASKED_EQ", 0o070, 0, True),
        ("SCMP_CMP_MASKED_EQ", 0o700, 0o600, False),
    ):
        argument = SeccompArg(index=1, value=value, value_two=two, op=operator)
        rule = SeccompRule(names=["chmod"], action="SCMP_ACT_ERRNO", args=[argument])
        result = bundle.run(filtered(bundle, rule, "chmod", "700", "/root"))
        assert (result.status != 0) == refused, (operator, value)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the call's number is x86-64's")
def test_the_families_of_sockets_that_are_kept_out_cannot_be_disguised() -> None:
    """The kernel takes the lower half of the argument: so must the filter (podman CVE-2026-123876)."""

    def attempts() -> dict[int, int]:
        library = ctypes.CDLL(None, use_errno=True)
        program = ctypes.create_string_buffer(seccomp.compile_profile(default_seccomp(list(DEFAULT_CAPABILITIES))))
        filter_ = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(program))
        assert library.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        assert library.prctl(22, 2, filter_) == 0  # PR_SET_SECCOMP, with a filter
        found = {}
        for family in range(48):
            for above in (0, 1 << 32, 0xFFFFFFFF << 32):
                fd = library.syscall(41, ctypes.c_ulong(family + above), 1, 0)  # socket, on x86-64
                found[family + above] = ctypes.get_errno() if fd < 0 else 0
        return found

    found = apart(attempts)
    for family in (socket.AF_ALG, socket.AF_VSOCK):
        assert [found[family + above] for above in (0, 1 << 32, 0xFFFFFFFF << 32)] == [errno.EPERM] * 3
    for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, 39, 41, 45):
        assert [found[family + above] for above in (0, 1 << 32)] != [errno.EPERM] * 2


def test_a_call_newer_than_the_profile_does_not_exist(bundle: Bundle) -> None:
    ask = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); libc.syscall({}); print(ctypes.get_errno())"
    for number, expected in ((600, "38"), (246, "1")):
        spec = bundle.spec(*python(ask.format(number)))
        host_python(spec)
        profile = bundle_profile()
        spec.linux.seccomp = profile
        assert bundle.run(spec).output.strip() == expected


def bundle_profile() -> Seccomp:
    from dockyard.runtime.spec import defaults

    return defaults.default_seccomp(defaults.DEFAULT_CAPABILITIES)


@pytest.mark.parametrize(
    ("profile", "complaint"),
    [
        (Seccomp(default_action="SCMP_ACT_NONE"), "invalid seccomp action"),
        (Seccomp(default_action="SCMP_ACT_ALLOW", flags=["NONE"]), "is not known"),
        (Seccomp(default_action="SCMP_ACT_ALLOW", architectures=["SCMP_ARCH_NONE"]), "invalid seccomp architecture"),
        (Seccomp(default_action="SCMP_ACT_ALLOW", listener_metadata="x"), "listenerPath is not"),
        (Seccomp(default_action="SCMP_ACT_KILL", default_errno_ret=1), "does not take an errnoRet"),
        (
            Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[SeccompRule(names=["mkdir"], action="SCMP_ACT_NOTIFY")]),
            "listenerPath is not set",
        ),
    ],
)
def test_a_profile_that_can_t_be_kept_is_refused(bundle: Bundle, profile: Seccomp, complaint: str) -> None:
    spec = bundle.spec("true")
    spec.linux.seccomp = profile
    with pytest.raises(RuntimeFailure, match=complaint):
        bundle.run(spec)


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_an_agent_gets_the_listener_of_the_container_and_of_a_later_process(
    bundle: Bundle, no_new_privileges: bool
) -> None:
    told: list[dict[str, Any]] = []

    def act() -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as agent:
            agent.bind(f"{folder}/agent.sock")
            agent.listen()

            rule = SeccompRule(names=["mkdir"], action="SCMP_ACT_NOTIFY")
            spec = filtered(
                bundle, rule, "sleep", "100", listener_path=f"{folder}/agent.sock", listener_metadata="for the agent"
            )
            assert spec.process is not None
            spec.process.no_new_privileges = no_new_privileges
            spec.annotations = {"key": "value"}

            def take() -> None:
                peer, _ = agent.accept()
                data, fds, _, _ = socket.recv_fds(peer, 1 << 16, 4)
                peer.close()
                told.append(json.loads(data) | {"descriptors": [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]})
                for fd in fds:
                    os.close(fd)

            taking = threading.Thread(target=take)
            taking.start()
            with bundle.running(spec) as (container, _):
                taking.join()
                taking = threading.Thread(target=take)
                taking.start()
                # nobody is there any more to decide: the call does not exist
                wanted = process("mkdir", "/tmp/y")
                wanted.no_new_privileges = no_new_privileges
                result = execute(container, wanted)
                taking.join()
                assert "Function not implemented" in result.output
                told.append({"pid": container.record.pid})
        return told

    first, second, container = apart(act)
    assert first["fds"] == second["fds"] == ["seccompFd"]
    assert first["descriptors"] == second["descriptors"] == ["anon_inode:seccomp notify"]
    assert first["metadata"] == "for the agent"
    assert first["pid"] == first["state"]["pid"] == second["state"]["pid"] == container["pid"] != second["pid"]
    assert (first["state"]["status"], second["state"]["status"]) == ("creating", "running")
    assert first["state"]["annotations"] == {"key": "value"}
