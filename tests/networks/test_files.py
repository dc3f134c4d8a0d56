"""A container's hosts and resolv.conf: what they say, and that what others write there stays."""

import pytest

from dockyard.engine.networks.service import EndpointConfig
from dockyard.errors import InvalidParameter
from dockyard.networks import files
from tests.networks.conftest import Host
from tests.networks.test_dns import lookup


def add_line(host: Host, name: str, file: str, line: str, *, first: bool = False) -> None:
    path = host.root / "files" / name / file
    text = path.read_text()
    path.write_text(line + "\n" + text if first else text + line)


async def test_edits_of_hosts_survive_connect_and_disconnect(host: Host) -> None:
    await host.create("lan")
    await host.join("one")
    inode = (host.root / "files/one/hosts").stat().st_ino
    add_line(host, "one", "hosts", "192.0.2.1\tmine # no end of line")
    state = await host.service.connect("lan", host.id_of("one"), EndpointConfig())
    text = host.file("one", "hosts")
    assert "192.0.2.1\tmine # no end of line\n" in text
    assert text.endswith(f"{state.ip}\t{host.id_of('one')[:12]}\n")
    add_line(host, "one", "hosts", f"{state.ip}\tanother-name\n")
    await host.service.disconnect("lan", host.id_of("one"))
    after = host.file("one", "hosts")
    assert after == text.removesuffix(f"{state.ip}\t{host.id_of('one')[:12]}\n") + f"{state.ip}\tanother-name\n"
    assert (host.root / "files/one/hosts").stat().st_ino == inode  # the container's mount shows it


async def test_bytes_that_are_no_text_survive_in_hosts(host: Host) -> None:
    await host.create("lan")
    await host.join("one")
    path = host.root / "files/one/hosts"
    path.write_bytes(b"\xff\xfe\r\n\0" + path.read_bytes())
    before = path.read_bytes()
    await host.service.connect("lan", host.id_of("one"), EndpointConfig())
    await host.service.disconnect("lan", host.id_of("one"))
    assert path.read_bytes() == before


async def test_an_edited_resolv_conf_stays_through_connect_disconnect_and_a_new_daemon(host: Host) -> None:
    await host.create("lan")
    await host.create("wan")
    await host.join("other", mode="lan")
    one = await host.join("one", mode="lan")
    add_line(host, "one", "resolv.conf", "options timeout:1", first=True)
    edited = host.file("one", "resolv.conf")
    await host.service.connect("wan", host.id_of("one"), EndpointConfig())
    await host.service.disconnect("lan", host.id_of("one"))
    assert host.file("one", "resolv.conf") == edited
    await host.service.disconnect("wan", host.id_of("one"))
    await host.service.connect("bridge", host.id_of("one"), EndpointConfig())
    assert host.file("one", "resolv.conf") == edited
    # and whom it names is still there
    assert await lookup(one.netns_path, "nobody") != []
    await host.kill()
    await host.open()
    await host.service.restore(host.id_of("one"), one, host.request("one", mode="lan"))
    assert await lookup(one.netns_path, "nobody") != []
    await host.service.connect("lan", host.id_of("one"), EndpointConfig())
    assert host.file("one", "resolv.conf") == edited


async def test_an_unedited_resolv_conf_follows_the_networks(host: Host) -> None:
    await host.create("lan")
    one = await host.join("one")
    before = host.file("one", "resolv.conf")
    for _ in range(2):
        await host.service.connect("lan", host.id_of("one"), EndpointConfig())
        assert "nameserver 127.0.0.11\n" in host.file("one", "resolv.conf")
        await host.service.disconnect("lan", host.id_of("one"))
        assert host.file("one", "resolv.conf") == before
    with pytest.raises(OSError):
        await lookup(one.netns_path, "one")


@pytest.mark.parametrize(
    ("hostname", "domainname", "names"),
    [
        ("web", "", "web"),
        ("web.example.com", "", "web.example.com web"),
        ("web", "example.com", "web.example.com web"),
        ("web.example", "com", "web.example.com web"),
    ],
)
async def test_hosts_has_the_short_name_beside_the_full_one(
    host: Host, hostname: str, domainname: str, names: str
) -> None:
    (host.root / "files" / "one").mkdir(parents=True)
    request = host.request("one")
    request.hostname, request.domainname = hostname, domainname
    one = await host.service.join(request)
    assert f"{one.endpoints['bridge'].ip}\t{names}\n" in host.file("one", "hosts")


async def test_hosts_has_the_names_of_a_linked_container_and_its_new_address(host: Host) -> None:
    request = host.request("target")
    request.hostname = "db-host"
    (host.root / "files" / "target").mkdir(parents=True)
    target = await host.service.join(request)
    one = await host.join("one", links=[f"{host.id_of('target')}:db"])
    assert f"{target.endpoints['bridge'].ip}\tdb db-host target\n" in host.file("one", "hosts")
    add_line(host, "one", "hosts", "192.0.2.1\tdbx\n192.0.2.2\tmine db\n")
    await host.service.leave(host.id_of("target"))
    await host.join("thief")
    again = await host.service.join(request)
    assert again.endpoints["bridge"].ip != target.endpoints["bridge"].ip
    text = host.file("one", "hosts")
    assert f"{again.endpoints['bridge'].ip}\tdb db-host target\n" in text
    assert "192.0.2.1\tdbx\n192.0.2.2\tmine db\n" in text
    assert f"{one.endpoints['bridge'].ip}\t" in text


@pytest.mark.parametrize("server", ["nonsense", "192.0.2.1\noptions debug", ""])
async def test_a_server_that_is_no_address_is_refused(host: Host, server: str) -> None:
    with pytest.raises(InvalidParameter, match="bad nameserver address"):
        await host.join("one", dns=[server])
    assert host.service.sandbox(host.id_of("one")) is None


def test_a_hosts_file_is_not_followed_through_a_link(host: Host) -> None:
    folder = host.root / "files"
    folder.mkdir()
    (host.root / "target").write_text("kept\n")
    (folder / "hosts").symlink_to(host.root / "target")
    with pytest.raises(OSError):
        files.append_hosts(str(folder), [("192.0.2.1", "x")])
    with pytest.raises(OSError):
        files.remove_hosts(str(folder), [("192.0.2.1", "x")])
    assert (host.root / "target").read_text() == "kept\n"


def test_a_huge_hosts_file_is_left_alone(host: Host) -> None:
    folder = host.root / "files"
    folder.mkdir()
    (folder / "hosts").write_text("x" * (files.LONGEST + 1))
    with pytest.raises(OSError):
        files.remove_hosts(str(folder), [("192.0.2.1", "x")])
