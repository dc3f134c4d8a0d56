LOG_DRIVERS = ("json-file", "local", "none")
