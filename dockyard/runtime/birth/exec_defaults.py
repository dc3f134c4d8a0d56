"""What a further process has from its container, where its own process.json says nothing.

As in runc (libcontainer, newInitConfig): to leave a restriction out is not to lift it.
"""

from dockyard.oci.runtime_spec import Process


def complete(wanted: Process, own: Process | None) -> None:
    """Give `wanted` what it leaves out and `own`, the container's process in config.json, has.

    Who it is, where it begins, its environment and terminal are its own alone.
    """
    if own is None:
        return
    if wanted.capabilities is None:
        wanted.capabilities = own.capabilities
    if wanted.no_new_privileges is None:
        wanted.no_new_privileges = own.no_new_privileges
    if wanted.oom_score_adj is None:
        wanted.oom_score_adj = own.oom_score_adj
    if wanted.scheduler is None:
        wanted.scheduler = own.scheduler
    if wanted.io_priority is None:
        wanted.io_priority = own.io_priority
    if wanted.exec_cpu_affinity is None:
        wanted.exec_cpu_affinity = own.exec_cpu_affinity
    if wanted.user.umask is None:
        wanted.user.umask = own.user.umask
    wanted.rlimits = wanted.rlimits or own.rlimits
    wanted.apparmor_profile = wanted.apparmor_profile or own.apparmor_profile
    wanted.selinux_label = wanted.selinux_label or own.selinux_label
