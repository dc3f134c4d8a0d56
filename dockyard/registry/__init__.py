"""An OCI distribution 1.1 server (opencontainers/distribution-spec), needing no engine.

It keeps its content as the distribution project's registry does, so that either can take over the other's folder, and
reads the same `config.yml` and `REGISTRY_*` variables. `python -m dockyard.registry serve` runs it.
"""
