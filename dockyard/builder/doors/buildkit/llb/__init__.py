"""LLB: graphs of low-level steps, as clients put them together themselves."""
