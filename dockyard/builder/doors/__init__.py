"""Through which builds come in. No door knows another; each translates into the same graph."""
