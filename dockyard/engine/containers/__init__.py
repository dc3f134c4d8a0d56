"""A container's whole life: its record, how it is made, started, stopped, recovered and removed."""
