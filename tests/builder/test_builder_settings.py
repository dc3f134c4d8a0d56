"""daemon.json's `builder`: what builds are granted, and what of their cache is let go by itself."""

import json
import secrets
from pathlib import Path

import msgspec
import pytest

from dockyard.builder.cache.orders import PruneOrder, collection_orders
from dockyard.builder_settings import BuilderSettings, CacheCollection
from dockyard.buildkit import wire_pb2 as wire
from dockyard.errors import InvalidParameter
from dockyard.grpc.calls import call
from dockyard.grpc.connection import Connection
from dockyard.grpc.status import CallFailed
from tests.buildkit_client import CONTROL, Client, connect
from tests.engine_process import EngineProcess

GB = 1 << 30
NOT_GRANTED = "granting entitlement {} is not allowed by build daemon configuration"
# a command that has nearly all capabilities
PRIVILEGED = "FROM busybox\nRUN --security=insecure grep -q 'CapEff:.*ffffff$' /proc/self/status\n"


def collection(text: str) -> CacheCollection:
    return msgspec.json.decode(text, type=BuilderSettings).gc


def test_without_a_word_the_cache_keeps_to_its_budget() -> None:
    assert collection_orders(CacheCollection(), 7) == [PruneOrder(largest=7)]
    assert collection_orders(collection('{"gc": {"enabled": false}}'), 7) == []


def test_sizes_of_the_daemons_settings_take_the_budgets_place() -> None:
    kept = collection('{"gc": {"enabled": true, "defaultKeepStorage": "10GB"}}')
    assert collection_orders(kept, 7) == [PruneOrder(reserved=10 * GB, largest=10 * GB)]
    sizes = '"defaultReservedSpace": "1GB", "defaultMaxUsedSpace": "4GB", "defaultMinFreeSpace": "2GB"'
    assert collection_orders(collection(f'{{"gc": {{{sizes}}}}}'), 7) == [PruneOrder((), 0, False, GB, 4 * GB, 2 * GB)]


def test_a_policys_rules_are_orders_one_after_the_other() -> None:
    oldest = '{"keepStorage": "10GB", "filter": ["unused-for=48h", "type=source.local"]}'
    rules = f'{oldest}, {{"reservedSpace": "50GB", "all": true}}'
    assert collection_orders(collection(f'{{"gc": {{"policy": [{rules}]}}}}'), 7) == [
        PruneOrder(["type==source.local"], 48 * 3600, False, 10 * GB),
        PruneOrder([], 0, True, 50 * GB),
    ]
    with pytest.raises(InvalidParameter, match="invalid filter 'colour'"):
        collection_orders(collection('{"gc": {"policy": [{"filter": ["colour=red"]}]}}'), 7)


@pytest.mark.parametrize(
    ("collection", "why"),
    [
        ({"defaultKeepStorage": "much"}, "invalid size: 'much'"),
        ({"policy": [{"keepStorage": "1GB", "filter": ["colour=red"]}]}, "invalid filter 'colour'"),
    ],
)
def test_what_the_cache_cannot_keep_to_is_refused_at_the_start(
    collection: dict[str, object], why: str, tmp_path: Path
) -> None:
    settings = tmp_path / "daemon.json"
    settings.write_text(json.dumps({"builder": {"gc": collection}}))
    engine = EngineProcess(tmp_path / "engine", number=49, arguments=(f"--config-file={settings}",))
    engine.run.mkdir()
    try:
        assert why in engine.refusal()
    finally:
        engine.abandon()


async def refusal(engine: EngineProcess, entitlement: str) -> str:
    """Why a build that asks for `entitlement` is not begun."""
    control = Connection()
    await connect(engine.socket, "/grpc", control)
    request = wire.ControlSolveRequest(ref=secrets.token_hex(12), entitlements=[entitlement])
    try:
        with pytest.raises(CallFailed) as caught:
            await call(control, f"{CONTROL}Solve", request.SerializeToString())
    finally:
        control.close()
    return caught.value.message


async def test_a_step_with_all_privileges_is_not_granted_by_itself(engine: EngineProcess) -> None:
    assert await refusal(engine, "security.insecure") == NOT_GRANTED.format("security.insecure")


async def test_settings_grant_and_refuse(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    settings = tmp_path / "daemon.json"
    settings.write_text(json.dumps({"builder": {"entitlements": {"network-host": False, "security-insecure": True}}}))
    engine = EngineProcess(tmp_path / "engine", number=48, arguments=(f"--config-file={settings}",))
    try:
        engine.start()
        engine.docker("pull", "busybox")
        (context / "Dockerfile").write_text(PRIVILEGED)
        client = Client(engine.socket, context, key=str(context))
        granted = await client.build(entitlements=["security.insecure"])
        assert granted.failure is None, granted.log
        assert await refusal(engine, "network.host") == NOT_GRANTED.format("network.host")
    finally:
        engine.clean_up()
