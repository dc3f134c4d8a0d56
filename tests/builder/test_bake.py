"""Bake files: what they mean, as `docker buildx bake --print` says it, and that they are built."""

import json
from pathlib import Path
from typing import Any

import pytest

from dockyard.bake.errors import BakeError
from dockyard.bake.printing import plan_text
from dockyard.bake.read import Project
from tests.engine_process import EngineProcess

BUILTIN = {"BAKE_CMD_CONTEXT": "cwd://", "BAKE_LOCAL_PLATFORM": "linux/amd64"}


def plan(
    *texts: str, wanted: tuple[str, ...] = ("default",), sets: tuple[str, ...] = (), **environment: str
) -> dict[str, Any]:
    """What `--print` shows of files, of which those that begin with `{` are JSON."""
    files = [(f"docker-bake.{'json' if text.lstrip().startswith('{') else 'hcl'}", text) for text in texts]
    document: dict[str, Any] = json.loads(plan_text(Project(files, BUILTIN, environment).plan(wanted, sets)))
    return document


def test_values_functions_and_templates() -> None:
    text = """
    variable "TAG" { default = "latest" }
    variable "COUNT" { default = 3 }
    function "named" {
      params = [name]
      variadic_params = more
      result = concat([for one in more : "${name}:${one}"], ["${name}:${TAG}"])
    }
    target "default" {
      tags = named("app", "a", upper("b"))
      args = {
        SUM = COUNT * 2 + 1
        HALF = COUNT / 2
        CHOICE = COUNT == 3 ? "y<z" : "n"
        LOOP = "%{ for k, v in {b = 2, a = 1} }${k}=${v};%{ endfor }"
        PICK = [{n = "x"}, {n = "y"}].*.n[1]
        OR = try(nothing.here, "else")
        NONE = null
      }
      dockerfile-inline = <<-EOT
        FROM scratch
          LABEL a=$${b}
      EOT
    }
    """
    target = plan(text)["target"]["default"]
    assert target["tags"] == ["app:a", "app:B", "app:latest"]
    assert target["args"] == {
        "SUM": "7", "HALF": "1.5", "CHOICE": "y<z", "LOOP": "a=1;b=2;", "PICK": "y", "OR": "else",
    }  # fmt: skip
    assert target["dockerfile-inline"] == "FROM scratch\n  LABEL a=$${b}\n"


def test_variables_come_from_the_environment_in_their_type() -> None:
    text = """
    variable "ON" { default = false }
    variable "LIST" {
      type = list(number)
      default = [1]
    }
    variable "DATA" { type = object({name = string, size = optional(number, 7)}) }
    variable "CHECKED" {
      default = ""
      validation {
        condition = CHECKED != "bad"
        error_message = "not ${CHECKED}"
      }
    }
    target "default" {
      args = { on = ON ? "yes" : "no", sum = sum_of(LIST...), data = "${DATA.name}${DATA.size}" }
    }
    function "sum_of" {
      params = []
      variadic_params = all
      result = length(all)
    }
    """
    found = plan(text, ON="true", LIST="1,2,3", DATA_JSON='{"name":"n"}')["target"]["default"]["args"]
    assert found == {"on": "yes", "sum": "3", "data": "n7"}
    with pytest.raises(BakeError, match="Validation failed; not bad"):
        plan(text, DATA_JSON='{"name":"n"}', CHECKED="bad")


def test_targets_inherit_refer_and_multiply() -> None:
    text = """
    group "default" { targets = ["app", "many"] }
    target "base" {
      args = { A = "1", B = "1" }
      no-cache-filter = ["x"]
    }
    target "app" {
      inherits = ["base"]
      args = { B = target.base.args.A == "1" ? "two" : "" }
      contexts = { other = "target:linked" }
      network = "host"
    }
    target "linked" { context = "./sub/../dir" }
    target "many" {
      name = "many-${one}-${two.n}"
      matrix = { one = [1, 2], two = [{n = "x"}, {n = "y"}] }
      tags = ["${one}${two.n}"]
    }
    """
    found = plan(text)
    assert found["group"]["many"]["targets"] == ["many-1-x", "many-1-y", "many-2-x", "many-2-y"]
    app = found["target"]["app"]
    assert app["args"] == {"A": "1", "B": "two"}
    assert app["entitlements"] == ["network.host"]
    assert found["target"]["linked"] == {
        "context": "dir", "dockerfile": "Dockerfile", "output": [{"type": "cacheonly"}],
    }  # fmt: skip
    assert found["target"]["many-2-y"]["tags"] == ["2y"]


def test_files_are_laid_over_each_other_and_the_command_line_over_them() -> None:
    first = 'target "a" {\n args = { x = "1" }\n tags = ["one"]\n}\ntarget "b" {}\nV = "v"\n'
    second = '{"target": {"a": {"args": {"y": "${V}"}, "tags": ["two"], "output": ["type=docker"]}}}'
    sets = ("a.args.x=set", "a.tags+=three", "*.platform=linux/arm64", "a.push=true", "b.contexts.c=docker-image://x")
    found = plan(first, second, wanted=("a", "b"), sets=sets)
    assert found["group"] == {"default": {"targets": ["a", "b"]}}
    assert found["target"]["a"] == {
        "context": ".",
        "dockerfile": "Dockerfile",
        "args": {"x": "set", "y": "v"},
        "tags": ["two", "three"],
        "platforms": ["linux/arm64"],
        "output": [{"type": "docker"}, {"push": "true", "type": "image"}],
    }
    assert found["target"]["b"]["contexts"] == {"c": "docker-image://x"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('target "default" {\n tags = [missing]\n}', r'hcl:2,10: Unknown variable; There is no variable .*"missing"'),
        ('target "default" {\n tags = [', "Invalid expression"),
        ('target "default" {\n inherits = ["no"]\n}', "failed to find target no"),
        ('A = B\nB = A\ntarget "default" {\n tags = [A]\n}', "variable cycle not allowed for A"),
        ('target "default" {\n contexts = { a = "target:b" }\n}\ntarget "b" {\n contexts = { a = "target:default" }\n}',
         "infinite loop from default to b|infinite loop from b to default"),
        ('target "default" {\n wrong = 1\n}', 'An argument named "wrong" is not expected here'),
        ('target "a b" {}', "Invalid name; only"),
        ('target "default" { a = 1\n}', "single-line block definition"),
        ('function "f" {\n params = [n]\n result = f(n)\n}\ntarget "default" {\n tags = [f(1)]\n}', "function cycle"),
        ("target \"default\" {\n tags = [" + "(" * 3000 + "1", "nested too deeply"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(BakeError, match=said):
        plan(text)


def test_compose_files_are_bake_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("WORD=dot\n")
    text = """
services:
  web.app:
    image: web
    build:
      context: ./web
      args: {A: "${WORD}", B: }
      additional_contexts: {base: "service:db"}
      x-bake: {platforms: linux/arm64, tags: [a, b]}
    environment: [B=own]
  db:
    build: ./db
"""
    found = json.loads(plan_text(Project([("compose.yaml", text)], BUILTIN, {}).plan(["default"], [])))
    assert found["group"]["default"]["targets"] == ["db", "web_app"]
    assert found["target"]["web_app"] == {
        "context": "web",
        "contexts": {"base": "target:db"},
        "dockerfile": "Dockerfile",
        "args": {"A": "dot", "B": "own"},
        "tags": ["a", "b"],
        "platforms": ["linux/arm64"],
    }


def test_linked_targets_are_built_once_and_together(
    engine: EngineProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("content")
    (tmp_path / "docker-bake.hcl").write_text("""
    group "default" { targets = ["one", "two"] }
    target "base" {
      dockerfile-inline = "FROM busybox\\nCOPY file /f\\nRUN cat /proc/sys/kernel/random/uuid > /once\\n"
    }
    target "one" {
      contexts = { base = "target:base" }
      dockerfile-inline = "FROM base\\nRUN cp /once /one\\n"
      tags = ["one"]
    }
    target "two" {
      contexts = { base = "target:base" }
      dockerfile-inline = "FROM busybox\\nCOPY --from=base /once /f /\\n"
      output = ["out"]
    }
    """)
    done = engine.dockyard("bake", "--metadata-file", "meta.json")
    assert done.returncode == 0, done.stderr
    assert b"[one 1/1] RUN cp /once /one" in done.stderr
    image = engine.inspect("one")["Id"]
    assert json.loads((tmp_path / "meta.json").read_text())["one"]["containerimage.config.digest"] == image
    said = engine.docker("run", "--rm", "one", "cat", "/one")
    assert (tmp_path / "out" / "once").read_text() == said
    assert (tmp_path / "out" / "f").read_text() == "content"


def test_a_failed_target_ends_the_others_and_is_named(
    engine: EngineProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docker-bake.hcl").write_text("""
    group "default" { targets = ["bad", "slow"] }
    target "bad" { dockerfile-inline = "FROM busybox\\nRUN exit 3\\n" }
    target "slow" { dockerfile-inline = "FROM busybox\\nRUN sleep 1000\\n" }
    """)
    done = engine.dockyard("bake")
    assert done.returncode == 3
    assert b"ERROR: target bad: failed to solve: process" in done.stderr


def test_a_file_is_not_allowed_more_than_whoever_runs_it_says(
    engine: EngineProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    (inside / "docker-bake.hcl").write_text("""
    target "default" {
      dockerfile-inline = "FROM busybox\\nRUN --network=host true\\n"
      network = "host"
      output = ["../outside"]
    }
    """)
    done = engine.dockyard("bake")
    assert done.returncode == 1
    assert b"--allow network.host --allow fs.write=../outside" in done.stderr
    assert not (tmp_path / "outside").exists()
    done = engine.dockyard("bake", "--allow", "network.host", "--allow", "fs.write=..")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outside" / "bin").is_dir()
