"""The working directory of a container that has not run yet: it is there from the creation on, as in Docker.

The runtime makes it at every start (runtime/birth/init.py). Before the first one it is made when somebody looks at the
files: mounting them at each creation would cost more than most creations.
"""

import os
import threading

from dockyard.engine.containers.container import Container
from dockyard.engine.containers.layers import Tree
from dockyard.linux import userns
from dockyard.linux.rooted import Root


def is_due(container: Container) -> bool:
    """Whether it may be missing though the container should have it."""
    return container.state.status == "created" and container.config.working_dir.strip("/") != ""


def make(tree: Tree, path: str) -> None:
    """Make `path`, and all above it, in a mounted root where it is missing; blocks. What is in its way stays."""
    maker = threading.Thread(target=_make, args=(tree, path), name="working-directory")
    maker.start()
    maker.join()


def _make(tree: Tree, path: str) -> None:
    if tree.ids is not None:  # for this thread alone
        userns.make_files_as(tree.ids.uid, tree.ids.gid)
    root = Root(tree.path)
    try:
        os.close(root.make(root.resolve(path), True))
    except OSError:
        return  # a file is there: the start says so
    finally:
        root.close()
