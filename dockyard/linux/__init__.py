"""The kernel, thinly: system calls, mounts, namespaces, cgroups, capabilities, seccomp, netlink, nftables.

No policy, no state, and nothing but the standard library at import time. Every act on the kernel can be recorded
(recorder.py), so that a container's birth can be told as commands.
"""
