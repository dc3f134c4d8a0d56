"""docker-py's constants that programs read."""

import sys

DEFAULT_DOCKER_API_VERSION = "1.44"
MINIMUM_DOCKER_API_VERSION = "1.24"
DEFAULT_TIMEOUT_SECONDS = 60
DEFAULT_DATA_CHUNK_SIZE = 2 << 20  # bytes
STREAM_HEADER_SIZE_BYTES = 8
IS_WINDOWS_PLATFORM = sys.platform == "win32"
