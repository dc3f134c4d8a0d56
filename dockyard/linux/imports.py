"""Where modules come from: the host's files, never those of a container.

A process of ours that goes into a container's mount namespace or root still has all its modules; but one that it had
not loaded would be looked for at the interpreter's places in the container's tree, and what lies there would run with
our rights (as with the C library's in Docker, CVE-2019-14271).
"""

import sys


def import_nothing_more() -> None:
    """Have every import of what is not loaded yet fail from now on: in a process that is to enter such a tree."""
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path.clear()
