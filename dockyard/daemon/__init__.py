"""The composition root: reads flags and daemon.json, builds every service, joins them, serves. None imports it."""
