"""The Docker Engine API over HTTP: one module per resource."""
