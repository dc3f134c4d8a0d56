"""The OCI formats as types: digest, reference, descriptor, manifest, index, image config, runtime spec."""
