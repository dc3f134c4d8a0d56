"""What an administrator says of forwarded traffic holds for containers, in iptables' words and in nftables'."""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux.nftables import Nftables
from dockyard.networks import iptables
from tests.networks.conftest import Host, Neighbour
from tests.networks.test_bridge import ask, in_thread, run, serving

DOCS = Path(__file__).parents[2] / "docs" / "networks.md"


@pytest.fixture(params=["iptables-nft", "iptables-legacy"], autouse=True)
def iptables_of(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both of the programs that may be called `iptables`."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for version in ("", "6"):
        for suffix in ("", "-restore"):
            real = shutil.which(f"ip{version}tables-{request.param.partition('-')[2]}{suffix}")
            if real is None:
                pytest.skip(f"no {request.param}")
            # by a script: the program looks at the name that it is called by
            script = programs / f"ip{version}tables{suffix}"
            script.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
            script.chmod(0o755)
    if subprocess.run([programs / "iptables", "-S", "FORWARD"], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{request.param} does not work on this kernel")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    before = {programs / program: _user_rules(programs / program) for program in ("iptables", "ip6tables")}
    dropping = _dropping_programs("legacy" if request.param == "iptables-nft" else "nft")
    for program in dropping:
        subprocess.run([program, "-w", "5", "-P", "FORWARD", "ACCEPT"], check=True)
    yield
    for program in dropping:
        subprocess.run([program, "-w", "5", "-P", "FORWARD", "DROP"], check=True)
    for program, theirs in before.items():
        # another engine's chain is left, with what its administrator has said there
        commands = [["-D", *rule.split()[1:]] for rule in _user_rules(program) or () if rule not in (theirs or ())]
        if theirs is None:
            commands = [["-D", "FORWARD", "-j", "DOCKER-USER"], ["-F", "DOCKER-USER"], ["-X", "DOCKER-USER"]]
        for command in commands:
            subprocess.run([program, "-w", "5", *command], capture_output=True, check=False)


def _dropping_programs(kind: str) -> list[str]:
    """Those of the other kind whose tables drop what is forwarded, as an engine says when it turns forwarding on.

    The kind that is tested knows nothing of it, and what that lets pass is dropped all the same.
    """
    found = []
    for name in filter(shutil.which, (f"iptables-{kind}", f"ip6tables-{kind}")):
        listed = subprocess.run([name, "-w", "5", "-S", "FORWARD"], capture_output=True, text=True, check=False)
        if "-P FORWARD DROP" in listed.stdout:
            found.append(name)
    return found


def _user_rules(program: Path) -> list[str] | None:
    """The rules in DOCKER-USER, as the program lists them; None without such a chain."""
    listed = subprocess.run([program, "-w", "5", "-S", "DOCKER-USER"], capture_output=True, text=True, check=False)
    return [line for line in listed.stdout.splitlines() if line.startswith("-A ")] if listed.returncode == 0 else None


async def reached(neighbour: Neighbour, port: int) -> bool:
    """Whether the neighbour reaches a published port; a refused packet is sent once more before it is believed."""
    try:
        await in_thread(ask, neighbour.ours, port, neighbour.path, 2)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "rule",
    ["-s {neighbour} -j DROP", "-p tcp -m conntrack --ctorigdstport {port} --ctdir ORIGINAL -j DROP"],
    ids=["by source", "by the port asked for"],
)
async def test_what_docker_user_drops_is_dropped_whoever_restarts(host: Host, neighbour: Neighbour, rule: str) -> None:
    port = 23400 + host.number
    bindings = {"80/tcp": [("", str(port))]}
    one = await host.join("one", port_bindings=bindings)
    given = rule.format(neighbour=neighbour.address, port=port).split()
    with serving(one.netns_path):
        assert await reached(neighbour, port)
        run("iptables", "-I", "DOCKER-USER", *given)
        said = run("iptables", "-S", "DOCKER-USER")
        assert not await reached(neighbour, port)
        await host.create("lan")
        await host.service.remove("lan")
        await host.kill()
        assert not await reached(neighbour, port)
        await host.open()
        await host.service.restore(host.id_of("one"), one, host.request("one", port_bindings=bindings))
        await host.service.sweep()
        assert not await reached(neighbour, port)
        assert run("iptables", "-S", "DOCKER-USER") == said
        run("iptables", "-D", "DOCKER-USER", *given)
        assert await reached(neighbour, port)
    await host.service.leave(host.id_of("one"))
    run("iptables", "-I", "DOCKER-USER", *given)
    await host.kill()  # without containers: our own chain goes
    assert iptables.chain_of(host.bridge) not in run("iptables", "-S")
    assert "-A FORWARD -j DOCKER-USER" in run("iptables", "-S", "FORWARD").splitlines()
    assert run("iptables", "-S", "DOCKER-USER") == said
    await host.open()


async def test_docker_user_is_asked_before_what_others_accept(host: Host, neighbour: Neighbour) -> None:
    port = 23600 + host.number
    bindings = {"80/tcp": [("", str(port))]}
    one = await host.join("one", port_bindings=bindings)
    run("iptables", "-I", "FORWARD", "-s", neighbour.address, "-j", "ACCEPT")
    run("iptables", "-I", "DOCKER-USER", "-s", neighbour.address, "-j", "DROP")
    try:
        await host.kill()
        await host.open()
        await host.service.restore(host.id_of("one"), one, host.request("one", port_bindings=bindings))
        await host.service.sweep()
        with serving(one.netns_path):
            assert not await reached(neighbour, port)
    finally:
        run("iptables", "-D", "FORWARD", "-s", neighbour.address, "-j", "ACCEPT")
    rules = run("ip6tables", "-S", "FORWARD").splitlines()
    assert "-A FORWARD -j DOCKER-USER" in rules


@pytest.mark.usefixtures("ipv6_forwarding")
async def test_what_docker_user_drops_of_ipv6_is_dropped(host: Host) -> None:
    for name in ("front", "back"):
        await host.create(name, ipv6=True)
    port = 25400 + host.number
    one = await host.join("one", mode="back", port_bindings={"80/tcp": [("", str(port))]})
    two = await host.join("two", mode="front")
    gateway = one.endpoints["back"].ipv6_gateway
    with serving(one.netns_path, address="::"):
        assert await in_thread(ask, gateway, port, two.netns_path)
        run("ip6tables", "-I", "DOCKER-USER", "-o", host.service.get("back").bridge, "-j", "DROP")
        with pytest.raises(OSError):
            await in_thread(ask, gateway, port, two.netns_path, 0.5)


async def test_a_mark_opens_what_is_closed(make_host: Any) -> None:
    host: Host = await make_host(accept_mark=(0x10, 0x10))
    await host.create("inner", internal=True)
    one, two = await host.join("one", mode="inner"), await host.join("two")
    inner = host.service.get("inner").bridge
    gateway = host.service.get("inner").pools[0].gateway
    assert one.netns_path
    run("nsenter", f"--net={one.netns_path}", "ip", "route", "add", "default", "via", gateway)
    with serving(one.netns_path):
        with pytest.raises(OSError):
            await in_thread(ask, one.endpoints["inner"].ip, 80, two.netns_path, 0.5)
        for way in (("-i", host.bridge, "-o", inner), ("-i", inner, "-o", host.bridge)):
            run("iptables", "-I", "DOCKER-USER", *way, "-j", "MARK", "--set-xmark", "0x10/0x10")
        assert await in_thread(ask, one.endpoints["inner"].ip, 80, two.netns_path)


async def test_docker_user_comes_first_of_all(host: Host) -> None:
    assert host.bridge
    first = next(line for line in run("iptables", "-S", "FORWARD").splitlines() if line.startswith("-A"))
    assert first == "-A FORWARD -j DOCKER-USER"


async def test_the_nftables_way_is_as_documented(host: Host, neighbour: Neighbour) -> None:
    port = 23800 + host.number
    one = await host.join("one", port_bindings={"80/tcp": [("", str(port))]})
    link = run("ip", "-o", "address", "show", "to", neighbour.ours).split()[1]
    commands = re.findall(r"^    nft (add .*)$", DOCS.read_text(), re.MULTILINE)
    assert len(commands) == 4
    text = "\n".join(commands).replace("'", "").replace("eth0", link).replace("docker0", host.bridge)
    text = text.replace("mine", f"mine{host.number}").replace("198.51.100.0/24", neighbour.address)
    nft = Nftables()
    try:
        with serving(one.netns_path):
            nft.run(text.replace("8080", "1"))
            assert await reached(neighbour, port)
            nft.run(f"delete table inet mine{host.number}\n" + text.replace("8080", str(port)))
            assert not await reached(neighbour, port)
            nft.run(f"delete table inet mine{host.number}\n" + text.replace("saddr !=", "saddr").replace("8080", "1"))
            assert not await reached(neighbour, port)
            await asyncio.sleep(1.5)
            assert not await reached(neighbour, port)
    finally:
        nft.run(f"delete table inet mine{host.number}\n")
        nft.close()
    assert iptables.USER_CHAIN in run("iptables", "-S", "FORWARD")


async def test_an_iptables_that_fails_keeps_no_daemon_from_starting(make_host: Any, tmp_path: Path) -> None:
    (tmp_path / "programs" / "iptables-restore").write_text("no program\n")
    host: Host = await make_host()
    one, two = await host.join("one"), await host.join("two")
    with serving(one.netns_path):
        assert await in_thread(ask, one.endpoints["bridge"].ip, 80, two.netns_path)
