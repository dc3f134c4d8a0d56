"""What confines a process: seccomp filters, AppArmor profiles and SELinux labels."""
