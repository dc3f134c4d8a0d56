"""Directories that clients send: what they said last is remembered, and what comes of it is what was sent."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from dockyard.builder.doors.buildkit.session import REQUEST, STAT, _take
from dockyard.builder.sources import contexts
from dockyard.builder.sources.contexts import ContextStore, Receiver, StoredContext
from dockyard.builder.trees import checksum
from dockyard.buildkit import wire_pb2 as wire

FILE = 0o644


def listed(files: dict[str, tuple[int, int]]) -> list[bytes]:
    """Packets that list files, {path: (size, time)}, and their end."""
    stats = [wire.Stat(path=path, mode=FILE, size=size, mod_time=time) for path, (size, time) in files.items()]
    packets = [wire.Packet(type=STAT, stat=stat) for stat in stats]
    return [packet.SerializeToString() for packet in (*packets, wire.Packet(type=STAT))]


def told(context: StoredContext, packets: Sequence[bytes], contents: dict[str, bytes], piece: int) -> Receiver:
    """Have a client say `packets`, some at a time, and send what it is asked for."""
    receiver = Receiver(context, lambda size: None)
    names = [wire.Packet.FromString(packet).stat.path for packet in packets]
    for place in range(0, len(packets), piece):
        messages = list(packets[place : place + piece])
        if receiver.said_before(messages):
            continue
        for answer in _take(receiver, receiver.so_far() + messages):
            wanted = wire.Packet.FromString(answer)
            assert wanted.type == REQUEST
            receiver.data(wanted.id, contents[names[wanted.id]])
            receiver.data(wanted.id, b"")
    assert receiver.complete
    context.listing = receiver.listing()
    context.save(receiver.kept())
    return receiver


def contents_of(receiver: Receiver) -> dict[str, bytes]:
    return {name: b"".join(file.read()) for name, file in receiver.tree.root.children().items()}


@pytest.fixture
async def store(tmp_path: Path) -> ContextStore:
    return ContextStore(tmp_path / "contexts")


FILES = {f"f{number}": (4, 1) for number in range(50)}
CONTENTS = {name: f"{name:4}".encode() for name in FILES}


@pytest.mark.parametrize("piece", [1, 7, 1000])
async def test_what_is_said_word_for_word_again_is_the_tree_of_before(store: ContextStore, piece: int) -> None:
    context = store.open("context:here")
    before = told(context, listed(FILES), CONTENTS, 13)
    store.close(context)
    context = store.open("context:here")
    again = told(context, listed(FILES), {}, piece)
    assert again.tree is before.tree
    assert contents_of(again) == CONTENTS


@pytest.mark.parametrize("place", [0, 24, 49])
async def test_a_file_that_has_changed_is_asked_for_wherever_it_is_in_the_list(store: ContextStore, place: int) -> None:
    context = store.open("context:here")
    before = checksum(told(context, listed(FILES), CONTENTS, 1000).tree.root, owners=True)
    name = f"f{place}"
    again = told(context, listed({**FILES, name: (4, 2)}), {name: b"else"}, 5)
    assert contents_of(again) == {**CONTENTS, name: b"else"}
    assert checksum(again.tree.root, owners=True) != before
    third = told(context, listed({**FILES, name: (4, 2)}), {}, 1000)
    assert third.tree is again.tree


async def test_a_list_that_ends_sooner_or_later_is_another_one(store: ContextStore) -> None:
    context = store.open("context:here")
    told(context, listed(FILES), CONTENTS, 1000)
    less = {name: fact for name, fact in FILES.items() if name != "f49"}
    assert contents_of(told(context, listed(less), {}, 10)).keys() == less.keys()
    more = told(context, listed({**FILES, "new": (3, 1)}), {**CONTENTS, "new": b"new"}, 10)
    assert contents_of(more) == {**CONTENTS, "new": b"new"}


async def test_a_file_that_changed_while_it_was_sent_is_asked_for_again(store: ContextStore) -> None:
    context = store.open("context:here")
    told(context, listed(FILES), {**CONTENTS, "f3": b"shorter"[:2]}, 1000)
    assert context.listing is None
    assert contents_of(told(context, listed(FILES), CONTENTS, 1000)) == CONTENTS


async def test_few_directories_are_remembered_and_a_pruned_one_is_not(store: ContextStore) -> None:
    for number in range(contexts.MOST_REMEMBERED + 2):
        context = store.open(f"context:{number}")
        told(context, listed(FILES), CONTENTS, 1000)
        store.close(context)
    used = store.open(f"context:{contexts.MOST_REMEMBERED + 1}")
    names = [folder for folder, *_ in store.rows()]
    assert [busy for *_, busy in store.rows()].count(True) == 1
    gone = [name for name in names if store.release(name)]
    assert gone == [name for name in names if name != used.folder.name]
    for name in gone:
        await asyncio.to_thread(store.remove, name)
    assert [folder for folder, *_ in store.rows()] == [used.folder.name]
    again = store.open("context:0")
    assert contents_of(told(again, listed(FILES), CONTENTS, 1000)) == CONTENTS


async def test_a_pack_of_which_little_is_named_is_begun_anew(
    store: ContextStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "WASTE", 300)
    for time in range(4):  # all of it is sent four times: the fourth build of it leaves the pack to waste
        context = store.open("context:here")
        told(context, listed(dict.fromkeys(FILES, (4, time))), CONTENTS, 1000)
        store.close(context)
    context = store.open("context:here")
    assert context.end < 2 * 200
    again = told(context, listed(dict.fromkeys(FILES, (4, 3))), CONTENTS, 1000)
    assert contents_of(again) == CONTENTS
