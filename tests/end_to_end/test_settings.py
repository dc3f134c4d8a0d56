"""Settings that can't be kept are refused at once: by the daemon before it opens anything, and by --validate."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seccomp-profile": "/nowhere.json"}, "opening seccomp profile (/nowhere.json) failed: No such file"),
        ({"seccomp-profile": "/etc/passwd"}, "decoding seccomp profile failed"),
        ({"tlsverify": True}, "could not load TLS files"),
        ({"tls": True, "tlscert": "/etc/passwd", "tlskey": "/etc/passwd"}, "could not load TLS files /etc/passwd"),
        ({"userns-remap": "nobody-of-that-name"}, 'user "nobody-of-that-name" does not exist'),
        ({"userns-remap": "root"}, 'no subordinate ids for user "root"'),
        ({"authorization-plugins": ["who-would-guard"]}, "don't match any configuration option: authorization-plugins"),
        ({"log-driver": "none-of-that-name"}, "failed to set log opts"),
    ],
)
@pytest.mark.parametrize("validate", [True, False])
def test_what_can_not_be_is_refused_at_once(
    tmp_path: Path, settings: dict[str, object], words: str, validate: bool
) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "dockyard.daemon", f"--config-file={file}", f"--data-root={tmp_path}/data",
               f"--exec-root={tmp_path}/run", f"--pidfile={tmp_path}/pid", f"--host=unix://{tmp_path}/socket",
               *(["--validate"] if validate else [])]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, env={"HOME": str(tmp_path), "PATH": "/bin"}
    )
    assert done.returncode == 1
    assert done.stderr.startswith("dockyardd: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"daemon.json"}
