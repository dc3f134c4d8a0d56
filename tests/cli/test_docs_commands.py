"""Every command that README and the pages of docs/ show is run as it stands there, page by page, or is listed here.

A page is one shell session in namespaces of its own, where no engine runs at first and /run, the data root and /srv are
empty. What cannot be run there is in NOT_RUN with the reason; lines that show a form (`[--flag]`, `start | stop`) are
held against the help; so a new block, a new flag or a changed command is tried without anybody thinking of it.
"""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting an engine needs root")

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent

# pages and blocks that show no commands
NO_COMMANDS = {
    "docs/architecture.md": "drawings",
    "docs/sdk.md": "doctests, which tests/client/test_docs.py runs",
}
# README's example, of which docs/sdk.md has a longer form; what docs/compose.md shows is in tests/compose
PYTHON = ("with dockyard.Client", "import dockyard")

SYSTEM = "changes the host's packages or services: conformance/newcomer does it in a root of its own"
SYSTEMD = "there is no systemd in these namespaces: conformance/vm --boots conformance/reboots has it"
REGISTRY = "needs a registry that has it: tests/engine/test_platforms.py"
PUBLISHED = "needs a registry: tests/compose/test_remote.py has one"
SERVES = "serves until it is stopped: tests/registry has it"
NOT_RUN = {
    "make run": "sets the host up; what it runs then is the first line of `Use it`",
    "make test": "is what runs this test",
    "make venv": "makes the environment that this test runs in",
    "sudo make install": SYSTEM,
    "sudo make install DOCKER_ALIAS=1": SYSTEM,
    "make deb": SYSTEM,
    "sudo apt install ./build/dockyard_*.deb": SYSTEM,
    "sudo apt remove dockyard": SYSTEM,
    "sudo apt install criu": SYSTEM,
    "sudo packaging/newer-criu /opt/criu && sudo ln -s /opt/criu/bin/criu /usr/local/bin/": "fetches packages: make "
    "test does, for itself",
    'sudo usermod -aG docker "$USER"': "changes the host's groups",
    "sudo systemctl enable --now dockyard.socket dockyard.service": SYSTEMD,
    "sudo systemctl stop docker docker.socket": SYSTEMD,
    "sudo dockyard system import-docker /var/lib/docker": "needs a data root of Docker: tests/end_to_end has one",
    "dockyard-runc --systemd-cgroup run --detach NAME": SYSTEMD,
    "conformance/vm --with RUNC env RUNC_USE_SYSTEMD=1 conformance/runc-bats RUNC [FILE.bats ...]": "boots a machine",
    "source <(dockyard completion zsh)": "zsh's; tests/cli/test_completion.py completes in it",
    "dockyard registry serve --storage /srv/registry": SERVES,
    "dockyard registry serve --proxy https://registry-1.docker.io --storage /srv/hub": SERVES,
    "dockyardd --registry-mirror http://cache.example:5000": "serves until it is stopped: tests/engine has mirrors",
    "dockyard registry serve --addr :5000 --tls-cert cert.pem --tls-key key.pem": SERVES,
    "dockyard registry serve /etc/docker/registry/config.yml": SERVES,
    "dockyard pull --platform linux/arm64 busybox": REGISTRY,
    "dockyard compose publish registry.example/team/app:1.0": PUBLISHED,
    "dockyard compose -f oci://registry.example/team/app:1.0 up": PUBLISHED,
    "dockyard run --platform linux/arm64 busybox true": REGISTRY,
    "dockyard completion fish | source": "fish's; tests/cli/test_completion.py completes in it",
}
# what is typed at a terminal, and commands that ask or do not end by themselves
TYPED = {
    "sudo .venv/bin/dockyard run -it --rm busybox": "exit",
    "dockyard-runc run NAME": "exit",
    "dockyard-runc exec -t NAME sh": "exit",
    "sudo dockyard system reset": "y",
}
INSTEAD = {
    "sudo dockyardd -H unix:///var/run/docker.sock": "dockyardd -H unix:///var/run/docker.sock --validate",
    "dockyard push localhost:5000/busybox": "until dockyard logs registry | grep -q listening; do sleep 0.1; done; "
    "dockyard push localhost:5000/busybox",
}
SESSION = r"""
set -eEu
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /var/lib/dockyard
mount -t tmpfs tmpfs /var/lib/dockyard
mount -t tmpfs tmpfs /srv
mkdir /srv/data
mount -t tmpfs tmpfs /srv/data
ip link set lo up
export PATH="$1:$PATH" HOME="$PWD/home"
mkdir -p "$HOME"
sudo() { "$@"; }
command -v nft >/dev/null || nft() { # the program is nothing that we need: its library is
  python -c 'import sys; from dockyard.linux.nftables import Nftables; Nftables().run(" ".join(sys.argv[1:]))' "$@"
}
at='the start'
trap 'status=$?; [ $status = 0 ] || echo "failed with $status: $at" >&2; trap - ERR; cd /
  { dockyard --no-autostart ps -aq | xargs -r dockyard rm -f
    dockyard-runc list -q | xargs -rn 1 dockyard-runc delete --force
    dockyard engine stop; } >/dev/null 2>&1 || true
  exit $status' EXIT
"""

# what the page supposes to be there
BUSY = "dockyard engine start >/dev/null; dockyard pull -q busybox >/dev/null; "
WEB = BUSY + "dockyard run -d --stop-signal KILL --name web busybox httpd -f >/dev/null"
BUNDLE = (
    BUSY + "mkdir rootfs; dockyard create --name files busybox >/dev/null; dockyard export files | tar -C rootfs -x"
)
GIVEN = {
    "README.md": BUSY + "dockyard tag busybox nginx; ln -s ${1%/bin} .venv",
    "docs/cli.md": WEB,
    "docs/dockyard-runc.md": BUNDLE,
    "docs/extensions.md": WEB + "; dockyard tag busybox postgres",
    "docs/installing.md": BUSY,
    # the other engine's place is ours here
    "docs/moving-from-docker.md": BUSY + "ln -s /run/dockyard/docker.sock /run/docker.sock",
    "docs/networks.md": BUSY,
    "docs/registry.md": BUSY + "mkdir -p /srv/registry",
}


class Line(NamedTuple):
    """A line of a block: where it stands, and without its comment."""

    page: str
    number: int
    command: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.number}: {self.command}"


def lines_of(page: str) -> Iterator[Line]:
    """The lines of the page's blocks, indented or fenced; those that show Python or JSON are left out."""
    fenced, block_begins, skipped = False, True, False
    for number, text in enumerate((ROOT / page).read_text().splitlines(), 1):
        if text.startswith("```"):
            fenced, block_begins = not fenced, True
            continue
        if not (fenced or text.startswith("    ")):
            block_begins = True
            continue
        line = text.strip()
        if block_begins:
            skipped = line.startswith((*PYTHON, "{"))
            block_begins = False
        if line and not skipped:
            yield Line(page, number, re.sub(r"\s{2,}#.*", "", line))


def pages() -> list[str]:
    found = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
    return [page for page in found if page not in NO_COMMANDS and list(lines_of(page))]


def is_form(command: str) -> bool:
    """Whether a line shows how commands look, instead of being one."""
    return bool(re.search(r" \[[a-z-]|…| \| (stop|list)\b", command)) and "{{" not in command


def runnable(page: str) -> list[Line]:
    return [line for line in lines_of(page) if line.command not in NOT_RUN and not is_form(line.command)]


def session(page: str) -> str:
    script = [SESSION, GIVEN.get(page, BUSY)]
    for line in runnable(page):
        command = line.command
        quoted = line.where.replace("'", "'\\''")
        script.append(f"at='{quoted}'")
        command = INSTEAD.get(command, command)
        if typed := TYPED.get(line.command):
            inner = command.removeprefix("sudo ").replace("'", "'\\''")
            command = f"(sleep 1; echo {typed}; sleep 1) | script -qefc '{inner}' /dev/null"
        script += [command, "[ $? = 0 ] || exit 1"]  # what fails before && ends no shell by itself
    return "\n".join(script)


@pytest.mark.parametrize("page", [page for page in pages() if runnable(page)])
def test_the_commands_of_a_page_do_what_it_says(page: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER", "DOCKYARD"))}
    try:
        done = subprocess.run(
            [
                "unshare",
                "--mount",
                "--net",
                "--propagation",
                "private",
                "bash",
                "-c",
                session(page),
                "page",
                PROGRAMS,
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    finally:
        with contextlib.suppress(OSError):
            os.rmdir("/var/lib/dockyard")  # if it is only the place that was mounted on
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{done.stdout[-2000:]}"


def forms() -> list[Line]:
    return [
        line for page in pages() for line in lines_of(page) if is_form(line.command) and line.command not in NOT_RUN
    ]


@pytest.mark.parametrize("line", forms(), ids=lambda line: line.command[:40])
def test_what_a_page_shows_as_a_form_is_in_the_help(line: Line) -> None:
    words = line.command.removeprefix("sudo ").split()
    program, rest = words[0].replace("docker", "dockyard") if words[0] == "docker" else words[0], words[1:]
    commands: list[str] = []
    for word in rest:
        if not re.fullmatch(r"[a-z]+", word):
            break
        commands.append(word)
    alternatives = re.findall(r"\| ([a-z]+)", line.command) if "[" not in line.command else []
    for last in [*commands[-1:], *alternatives] or [""]:
        path = [*commands[:-1], last] if last else []
        done = subprocess.run([PROGRAMS / program, *path, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line.where}: {path}: {done.stderr}"
        if last in commands or not last:
            missing = [flag for flag in re.findall(r"--[a-z-]+", line.command) if flag not in done.stdout]
            assert not missing, line.where


def test_what_is_not_run_is_still_in_a_page() -> None:
    shown = {line.command for page in pages() for line in lines_of(page)}
    assert {*NOT_RUN, *TYPED, *INSTEAD} - shown == set()
