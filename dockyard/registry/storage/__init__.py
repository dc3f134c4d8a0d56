"""Where a registry's content is kept, behind one small interface."""

from dockyard.registry.storage.driver import Missing, Storage, Writer

__all__ = ["Missing", "Storage", "Writer"]
