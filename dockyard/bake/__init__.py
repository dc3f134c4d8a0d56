"""Bake: builds as they are described by docker-bake.hcl, docker-bake.json and Compose files (docker/buildx, bake/)."""
