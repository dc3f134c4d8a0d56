"""Many containers as one application: the Compose Specification, on the client of the Engine API alone.

model/     what the files say: load, merge, interpolate, validate
plan/      what there is, what must change for it to be as the files say, and in which order
run/       doing it, and showing what is being done
program.py a project in a program: `load`, `up` and `down`, which are to be had here, as is `Project`
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.compose.model.project import Project
    from dockyard.compose.program import down, load, up

__all__ = ["Project", "down", "load", "up"]


def __getattr__(name: str) -> object:
    """Import what is asked for: the command line is to start without what it does not need."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("dockyard.compose.program"), name)
