"""What a container may use of the machine: its cgroup, the limits in it, and its counters."""
