"""System calls that a libseccomp may not know by name yet, by their numbers.

A distribution's libseccomp is often years older than the kernel and the profiles that name its calls: Debian 12's ends
with Linux 5.17. Since Linux 5.1 a new call has one number on every architecture (include/uapi/asm-generic/unistd.h).
"""

EVERYWHERE = ""

# name: (architecture that has it, number)
NUMBERS: dict[str, tuple[str, int]] = {
    "quotactl_fd": (EVERYWHERE, 443),
    "landlock_create_ruleset": (EVERYWHERE, 444),
    "landlock_add_rule": (EVERYWHERE, 445),
    "landlock_restrict_self": (EVERYWHERE, 446),
    "memfd_secret": (EVERYWHERE, 447),
    "process_mrelease": (EVERYWHERE, 448),
    "futex_waitv": (EVERYWHERE, 449),
    "set_mempolicy_home_node": (EVERYWHERE, 450),
    "cachestat": (EVERYWHERE, 451),
    "fchmodat2": (EVERYWHERE, 452),
    "map_shadow_stack": (EVERYWHERE, 453),
    "futex_wake": (EVERYWHERE, 454),
    "futex_wait": (EVERYWHERE, 455),
    "futex_requeue": (EVERYWHERE, 456),
    "statmount": (EVERYWHERE, 457),
    "listmount": (EVERYWHERE, 458),
    "lsm_get_self_attr": (EVERYWHERE, 459),
    "lsm_set_self_attr": (EVERYWHERE, 460),
    "lsm_list_modules": (EVERYWHERE, 461),
    "mseal": (EVERYWHERE, 462),
    "setxattrat": (EVERYWHERE, 463),
    "getxattrat": (EVERYWHERE, 464),
    "listxattrat": (EVERYWHERE, 465),
    "removexattrat": (EVERYWHERE, 466),
    "open_tree_attr": (EVERYWHERE, 467),
    "file_getattr": (EVERYWHERE, 468),
    "file_setattr": (EVERYWHERE, 469),
    # arch/x86/entry/syscalls/syscall_64.tbl: the kernel's own probes make them, in a process that knows nothing of it
    "uretprobe": ("SCMP_ARCH_X86_64", 335),
    "uprobe": ("SCMP_ARCH_X86_64", 336),
}
