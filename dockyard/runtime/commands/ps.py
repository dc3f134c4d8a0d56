"""ps: the processes of a container, as ps(1) of the host shows them."""

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, check_arguments

HELP = """\
NAME:
   dockyard-runc ps - ps displays the processes running inside a container

USAGE:
   dockyard-runc ps [command options] <container-id> [ps options]

OPTIONS:
   --format value, -f value  select one of: table or json (default: "table")
"""


def command(session: Session, flags: Flags) -> None:
    """Print them."""
    check_arguments("ps", flags.arguments, 1)
    from dockyard.runtime.errors import RuntimeFailure
    from dockyard.runtime.lifecycle.handle import ContainerHandle

    pids = ContainerHandle.load(session.root, flags.arguments[0]).pids()
    form = flags.text("format", "table")
    if form == "json":
        print("[" + ",".join(str(pid) for pid in sorted(pids)) + "]")
        return
    if form != "table":
        raise ValueError("invalid format option")
    import subprocess

    done = subprocess.run(
        ["ps", *(flags.arguments[1:] or ["-ef"])],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise RuntimeFailure(f"exit status {done.returncode}: {done.stdout}")
    title, *rows = done.stdout.split("\n")
    if "PID" not in title.split():
        raise RuntimeFailure("couldn't find PID field in ps output")
    column = title.split().index("PID")
    print(title)
    for row in rows:
        fields = row.split()
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
            print(row)
