"""How a process of a container comes to be: from the fork to its execve, one module a step."""
