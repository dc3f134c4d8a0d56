"""Software bills of materials: which packages are in an image's files, by what package managers have written there."""
