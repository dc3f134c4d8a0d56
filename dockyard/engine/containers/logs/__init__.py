"""Where a container's output goes: log drivers and their options, tags, log servers."""
