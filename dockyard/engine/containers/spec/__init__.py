"""From what was asked of a container to its OCI runtime spec: one module for each kind of flag."""
