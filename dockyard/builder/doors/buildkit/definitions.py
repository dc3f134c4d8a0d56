"""Results of builds as definitions of LLB that say no more than which result is meant.

A client hands on the result of one build as the input of another (a context `target:…`) as an LLB definition, which it
takes apart and puts together again: so it is one, of a source that only we know.
"""

from __future__ import annotations

import hashlib

from dockyard.buildkit import wire_pb2 as wire

SCHEME = "dockyard-result://"


def definition_of(name: str) -> wire.Definition:
    """The definition that means the result `name`."""
    source = wire.Op(source=wire.SourceOp(identifier=f"{SCHEME}{name}")).SerializeToString(deterministic=True)
    digest = f"sha256:{hashlib.sha256(source).hexdigest()}"
    last = wire.Op(inputs=[wire.Input(digest=digest)]).SerializeToString(deterministic=True)
    return wire.Definition(ops=[source, last], metadata={digest: wire.OpMetadata()})


def name_in(definition: wire.Definition) -> str | None:
    """The result that a definition means; None when it is another one."""
    for encoded in definition.ops:
        identifier = wire.Op.FromString(encoded).source.identifier
        if identifier.startswith(SCHEME):
            return identifier.removeprefix(SCHEME)
    return None
