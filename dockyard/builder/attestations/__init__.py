"""What is said about a build: how it was made (provenance) and what is in it (SBOM), as in-toto statements."""
