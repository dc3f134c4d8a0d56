"""`dockyard engine` and `system check`, in a mount namespace whose /run and data root are the test's own."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting an engine needs root")

PREPARE = """
set -eu
mount -t tmpfs tmpfs /run
mkdir -p /var/lib/dockyard
mount -t tmpfs tmpfs /var/lib/dockyard
ip link set lo up
dockyard() { "$PYTHON" -m dockyard.cli.main "$@"; }
trap 'status=$?; dockyard engine stop >/dev/null; exit $status' EXIT
"""


def alone(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script where no engine is, and none of the host's is to be seen."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    done = subprocess.run(
        ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", PREPARE + script],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**environment, "PYTHON": sys.executable},
    )
    try:
        os.rmdir("/var/lib/dockyard")  # if it is only the place that was mounted on
    except OSError:
        pass
    return done


def test_the_engine_is_started_shown_restarted_and_stopped() -> None:
    done = alone("""
        dockyard engine status || echo "status $?"
        dockyard engine start
        dockyard engine start | sed 's/[0-9]*)/N)/'
        dockyard engine status | sed 's/process [0-9]*/process N/'
        dockyard version --format '{{.Server.Os}}'
        first=$(cat /run/dockyard/dockyard.pid)
        dockyard engine restart >/dev/null
        [ "$first" != "$(cat /run/dockyard/dockyard.pid)" ] && echo another
        dockyard engine logs | grep -q 'storage driver' && echo said
        dockyard engine stop
        dockyard engine stop
    """)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["The engine does not run", "status 3"], done.stderr
    assert lines[3:] == [
        "The engine was running already (process N)",
        "The engine runs as process N (its log is /run/dockyard/dockyardd.log)",
        "It answers on unix:///run/dockyard/docker.sock",
        "linux",
        "another",
        "said",
        "The engine has ended",
        "The engine does not run",
    ], done.stderr


def test_many_clients_that_need_an_engine_start_one() -> None:
    done = alone("""
        for n in 1 2 3 4 5 6; do dockyard version --format '{{.Server.Os}}' 2>/dev/null & jobs="${jobs:-} $!"; done
        for job in $jobs; do wait "$job"; done
    """)
    assert done.stdout.replace("\n", "") == "linux" * 6, done.stderr


def test_a_program_has_the_engine_started_on_request() -> None:
    done = alone("""
        "$PYTHON" -c 'import dockyard; dockyard.Client().ping()' 2>&1 | tail -n 1
        "$PYTHON" -c 'import dockyard; print(dockyard.Client(start=True).info()["OSType"])'
        "$PYTHON" -c 'import dockyard; print(dockyard.Client(start=True).ping())'
    """)
    assert "Cannot connect" in done.stdout
    assert done.stdout.splitlines()[1:] == ["linux", "True"], done.stderr


def test_an_engine_that_does_not_start_says_why() -> None:
    done = alone("""
        mkdir -p /run/conf
        cp -a /etc/. /run/conf/
        mount --bind /run/conf /etc
        mkdir -p /etc/dockyard
        echo '{"log-level": "loud"}' >/etc/dockyard/daemon.json
        dockyard ps || echo "status $?"
    """)
    assert done.stdout == "status 1\n"
    assert "the engine did not start: " in done.stderr
    assert "loud" in done.stderr


def test_an_ordinary_user_without_an_engine_is_told_what_to_do() -> None:
    done = alone("""
        nobody="setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/nonexistent"
        $nobody "$PYTHON" -m dockyard.cli.main ps || true
        $nobody "$PYTHON" -m dockyard.cli.main engine start || true
    """)
    assert "No engine runs here. Start one with `sudo dockyard engine start`" in done.stderr
    assert "only root may start it: sudo dockyard engine start" in done.stderr


def test_what_is_missing_is_told_with_what_it_is_for_and_how_to_get_it() -> None:
    script = """
        dockyard system check >/dev/null && echo "all there"
        PATH=/nowhere "$PYTHON" -m dockyard.cli.main system check --quiet
        libraries=$(ldconfig -p | awk '/libnftables.so.1/ {print $NF}')
        for library in $libraries; do mount --bind /dev/null "$(readlink -f "$library")"; done
        dockyard system check --quiet || echo "status $?"
        dockyard engine start || true
    """
    done = alone(script)
    assert done.stdout.startswith("all there\n"), done.stderr
    assert "[ -- ] git: missing; it is for building from git repositories" in done.stdout
    assert "[FAIL] libnftables: missing; it is for networks and published ports" in done.stdout
    assert "status 1" in done.stdout
    assert "this host lacks libnftables" in done.stderr


def test_a_reset_leaves_nothing_of_the_engine() -> None:
    done = alone("""
        dockyard run -d --name one busybox sleep 100 >/dev/null 2>&1
        dockyard network create other >/dev/null
        dockyard run -d --name two --network other -v data:/data -p 127.0.0.1:18080:80 busybox sleep 100 >/dev/null
        dockyard system reset --force >/dev/null
        [ -z "$(ls -A /var/lib/dockyard)" ] && echo "no data"
        [ ! -e /run/dockyard ] && echo "no run-time files"
        ip -o link | grep -E ': (docker|dockyard|br-|veth)' || echo "no links"
        nft list ruleset | grep -i dockyard || echo "no rules"
        dockyard engine status || true
        dockyard run --rm hello-world | head -2 | tail -1
        dockyard system reset --force >/dev/null
    """)
    assert done.stdout.splitlines() == [
        "no data",
        "no run-time files",
        "no links",
        "no rules",
        "The engine does not run",
        "Hello from Dockyard!",
    ], done.stderr
