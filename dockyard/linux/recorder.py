"""Who wants to know of every act on the kernel sets `sink`; nothing is spent while it is None."""

from collections.abc import Callable

# sink(act, arguments): e.g. ("mount", ("proc", "/proc", "proc", 14, "")).
sink: Callable[[str, tuple[object, ...]], None] | None = None


def note(act: str, *arguments: object) -> None:
    """Tell the recorder, if there is one, what is about to be done."""
    if sink is not None:
        sink(act, arguments)
