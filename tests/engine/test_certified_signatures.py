"""Signatures that a log has an entry of, and those by who has a certificate (`rekorPublicKey…`, `fulcio`, `pki`)."""

import json
import os
import re
import shutil
from typing import Any

import pytest

from dockyard.content.signatures import policy
from dockyard.content.signatures.sigstore import PAYLOAD
from dockyard.errors import Forbidden, InvalidParameter
from dockyard.oci.manifest import OCI_CONFIG, OCI_MANIFEST
from tests.engine.sigstore_cases import MALFORMED, MATCH, Case, cases, pem, pki
from tests.engine.sigstore_cases import RSA as LOGS_KEY
from tests.engine.test_image_transfer import Connected, registry, room
from tests.engine.test_platforms import described
from tests.engine.test_signatures import Signer, demand, payload_for, published

__all__ = ["registry", "room"]  # fixtures

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("docker-registry") is None, reason="needs root and Debian's docker-registry"
)


async def attach(signer: Signer, payload: bytes, case: Case) -> None:
    """Have the signature of a case be the only one of the image."""
    layer = described(PAYLOAD, payload, annotations=case.annotations)
    made = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described(OCI_CONFIG, b"{}"), "layers": [layer]}
    tag = (await signer.manifest()).replace(":", "-")
    await signer.repository.put_manifest(f"{tag}.sig", OCI_MANIFEST, json.dumps(made).encode())


async def refusal(room: Connected, name: str) -> str:
    """Why an image is not taken; "" when it is."""
    try:
        await room.pull(name)
    except Forbidden as refused:
        assert room.images.all() == []
        return refused.message
    await room.images.remove(name, force=True)
    return ""


async def test_every_case_meets_its_verdict(room: Connected, registry: str) -> None:
    name = f"{registry}/certified/one"
    signer = await published(room, f"{name}:1")
    try:
        payload = payload_for(await signer.manifest(), name)
        for blob in (payload, b"{}"):
            await signer.repository.upload_bytes(blob)
        judged, wrong = 0, []
        for case in cases(payload):
            await attach(signer, payload, case)
            demand(room, case.demand)
            reason = await refusal(room, f"{name}:1")
            if bool(reason) != bool(case.reason) or not re.search(case.reason, reason):
                wrong.append(f"{case.label}: {reason or 'taken'}")
            judged += 1
        assert not wrong, "\n".join(wrong)
        assert judged > 70
    finally:
        await signer.client.close()


async def test_what_is_signed_and_of_another_image_is_refused(room: Connected, registry: str) -> None:
    name = f"{registry}/certified/other"
    signer = await published(room, f"{name}:1")
    try:
        payload = payload_for("sha256:" + "0" * 64, name)
        for blob in (payload, b"{}"):
            await signer.repository.upload_bytes(blob)
        for case in (case for case in cases(payload) if case.label.endswith(": good")):
            await attach(signer, payload, case)
            demand(room, case.demand)
            with pytest.raises(Forbidden, match=r"Signature for digest sha256:0+ does not match"):
                await room.pull(f"{name}:1")
    finally:
        await signer.client.close()


async def test_certificates_that_cannot_be_read_refuse_the_image(room: Connected, registry: str) -> None:
    name = f"{registry}/certified/files"
    signer = await published(room, f"{name}:1")
    try:
        payload = payload_for(await signer.manifest(), name)
        for blob in (payload, b"{}"):
            await signer.repository.upload_bytes(blob)
        good = next(case for case in cases(payload) if case.label == "pki: good")
        await attach(signer, payload, good)
        roots = room.root / "roots.pem"
        wanted = {**MATCH, "pki": {"caRootsPath": str(roots), "subjectEmail": "one@example.com"}}
        demand(room, wanted)
        with pytest.raises(Forbidden, match="cannot read the certificates"):
            await room.pull(f"{name}:1")
        roots.write_bytes(pem(LOGS_KEY))
        with pytest.raises(Forbidden, match="cannot use the certificates"):
            await room.pull(f"{name}:1")
        roots.write_bytes(policy.parse(json.dumps({"default": [pki()]}).encode()).default[0].authority.roots)  # type: ignore[union-attr, arg-type]  # of data, as pki() has it
        await room.pull(f"{name}:1")
    finally:
        await signer.client.close()


@pytest.mark.parametrize("requirement", MALFORMED)
def test_a_demand_that_is_not_understood_is_refused(requirement: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        policy.parse(json.dumps({"default": [requirement]}).encode())
