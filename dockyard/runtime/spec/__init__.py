"""What a container has when its specification does not say otherwise."""
