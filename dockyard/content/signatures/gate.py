"""The gate that an image of a registry passes before anything of it is taken: the policy, and its signatures.

Signatures are looked for where cosign puts them: under the tag `sha256-<digest>.sig` of the same repository, and among
the referrers of the manifest (OCI 1.1); those by GPG beside the registry (lookaside.py).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from itertools import chain

from dockyard.content.registry import Repository
from dockyard.content.signatures import lookaside, openpgp, policy, sigstore, simple
from dockyard.content.signatures.policy import Requirement
from dockyard.content.signatures.sigstore import BUNDLE, CERTIFICATE, CHAIN, PAYLOAD, SIGNATURE, Signature
from dockyard.errors import Forbidden, InvalidParameter, NotFound, words
from dockyard.oci.descriptor import Descriptor
from dockyard.oci.manifest import Manifest
from dockyard.oci.reference import Reference

ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
LARGEST_PAYLOAD = 4 << 20
MOST_SIGNATURES = 200  # of one image: each costs a request and a verification
MOST_REFERRERS = 50


class SignatureGate:
    """Asks the policy in the file `path`, which is read again for each image; without one everything passes."""

    def __init__(self, path: str = "", registries: str = lookaside.FOLDER) -> None:
        """`registries`: the folder whose files say where signatures by GPG are."""
        self._path = path
        self._registries = registries

    def configure(self, path: str, registries: str = lookaside.FOLDER) -> None:
        """Go by other files."""
        self._path = path
        self._registries = registries

    def check(self) -> None:
        """Raise InvalidParameter when the file cannot be used."""
        if self._path:
            found = self._policy()
            if any(one.kind == "signedBy" for one in (*found.default, *chain(*found.scopes.values()))):
                openpgp.check()
                lookaside.read(self._registries)

    def _policy(self) -> policy.Policy:
        try:
            with open(self._path, "rb") as file:
                text = file.read()
        except OSError as error:
            raise InvalidParameter(f"cannot read the signature policy {self._path}: {words(error)}") from None
        try:
            return policy.parse(text)
        except InvalidParameter as error:
            raise InvalidParameter(f'invalid policy in "{os.path.abspath(self._path)}": {error.message}') from None

    def requirements(self, name: Reference) -> Sequence[Requirement]:
        """What is demanded of the image `name`. Raises Forbidden when nothing could meet it."""
        if not self._path:
            return ()
        demanded = self._policy().requirements(name)
        for requirement in demanded:
            if requirement.kind == "reject":
                raise _refused(f"Running image docker:{name.full()} is rejected by policy.")
            if requirement.unmet:
                raise _refused(requirement.unmet)
        return [requirement for requirement in demanded if requirement.kind in ("sigstoreSigned", "signedBy")]

    async def admit(
        self, name: Reference, digest: str, demanded: Sequence[Requirement], repository: Repository
    ) -> None:
        """Return when the manifest `digest` of `name` meets all that is demanded. Raises Forbidden."""
        if not demanded:
            return
        try:
            await self._meet([one for one in demanded if one.kind == "sigstoreSigned"], name, digest, repository)
            by_gpg = [one for one in demanded if one.kind == "signedBy"]
            if by_gpg:
                places = await asyncio.to_thread(lookaside.read, self._registries)
                found = await lookaside.signatures_of(places, name, digest)
                for requirement in by_gpg:
                    await asyncio.to_thread(simple.accepted, found, requirement, name, digest)
        except Forbidden as error:
            raise _refused(error.message) from None

    async def _meet(
        self, demanded: Sequence[Requirement], name: Reference, digest: str, repository: Repository
    ) -> None:
        if not demanded:
            return
        found = await signatures_of(repository, digest)
        for requirement in demanded:
            trust = await asyncio.to_thread(sigstore.trusted, requirement)
            await asyncio.to_thread(sigstore.accepted, found, trust, name, digest, requirement.identity)


def _refused(reason: str) -> Forbidden:
    return Forbidden(f"Source image rejected: {reason}")


async def signatures_of(repository: Repository, digest: str) -> list[Signature]:
    """What claims to be a signature of the manifest `digest`. Raises InvalidParameter, Unavailable, Forbidden."""
    manifests = []
    try:
        manifests.append((await repository.manifest(digest.replace(":", "-") + ".sig")).content)
    except NotFound:
        pass
    referrers = [entry for entry in await repository.referrers(digest) if entry.artifact_type == ARTIFACT]
    for entry in referrers[:MOST_REFERRERS]:
        manifests.append((await repository.manifest(entry.digest)).content)
    layers: list[Descriptor] = []
    for content in manifests:
        layers += [layer for layer in Manifest.decode(content).layers if layer.media_type == PAYLOAD]
    if len(layers) > MOST_SIGNATURES:
        raise Forbidden(f"it has more than {MOST_SIGNATURES} signatures")
    found = []
    for layer in layers:
        if not 0 < layer.size <= LARGEST_PAYLOAD:
            continue
        notes = [layer.annotations.get(name, "") for name in (SIGNATURE, CERTIFICATE, CHAIN, BUNDLE)]
        found.append(Signature(await repository.blob_bytes(layer), *notes))
    return found
