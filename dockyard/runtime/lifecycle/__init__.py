"""A container from its creation to its deletion, as the commands of the runtime specification see it."""
