"""Content by its digest: layer archives, image archives, registries, embedded images."""
