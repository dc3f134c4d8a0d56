"""The client of the Engine API. Imports nothing of the engine."""
