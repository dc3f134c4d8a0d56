"""A policy on signatures holds for every way an image comes by, with the stock client."""

import json
import subprocess
import sys
from pathlib import Path

from tests.engine_process import EngineProcess
from tests.registry.server import Server


def test_an_unsigned_image_comes_in_by_no_door(tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    accept, reject = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
    policy.write_text(json.dumps({"default": accept}))
    server = Server(tmp_path).start()
    engine = EngineProcess(tmp_path, number=31, arguments=("--signature-policy", str(policy)))
    try:
        engine.start()
        name = f"localhost:{server.port}/box:1"
        engine.docker("pull", "busybox")
        engine.docker("tag", "busybox", name)
        engine.docker("push", name)
        engine.docker("rmi", name)
        policy.write_text(
            json.dumps({"default": accept, "transports": {"docker": {f"localhost:{server.port}": reject}}})
        )
        (tmp_path / "context").mkdir()
        (tmp_path / "context" / "Dockerfile").write_text(f"FROM {name}\nRUN true\n")
        for command in (
            ["pull", name],
            ["run", "--rm", name, "true"],
            ["create", name],
            ["build", str(tmp_path / "context")],
        ):
            refused = engine.run_docker(*command)
            assert refused.returncode != 0, command
            assert f"Running image docker:{name} is rejected by policy" in (refused.stdout + refused.stderr).decode()
        assert "/box" not in engine.docker("images")
        policy.write_text(json.dumps({"default": accept}))
        engine.docker("run", "--rm", name, "true")
    finally:
        engine.clean_up()
        server.stop()


def test_an_engine_does_not_start_with_a_policy_that_it_does_not_understand(tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "acceptAnything"}]}')
    for words in (["--validate"], ["--data-root", str(tmp_path / "data"), "--exec-root", str(tmp_path / "run")]):
        done = subprocess.run(
            [sys.executable, "-m", "dockyard.daemon", "--signature-policy", str(policy), *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode != 0
        assert 'unknown policy requirement type "acceptAnything"' in done.stderr
