"""What the shell is offered: commands, flags, and the services and profiles of the project's files."""

from tests.compose.conftest import ComposeFolder

FILE = "services: {base: {image: a}, web: {image: b}, job: {image: c, profiles: [jobs]}}"


def offered(files: ComposeFolder, *words: str) -> list[str]:
    return [line.partition("\t")[0] for line in files("__complete", *words).splitlines()]


def test_commands_flags_services_and_profiles_are_offered(files: ComposeFolder) -> None:
    files.write(FILE)
    assert {"up", "down", "graph"} <= set(offered(files, ""))
    assert "--project-name" in offered(files, "-")
    assert offered(files, "up", "") == ["base", "job", "web"]
    assert offered(files, "-f", "compose.yaml", "exec", "") == ["base", "job", "web"]
    assert offered(files, "exec", "web", "") == []
    assert offered(files, "up", "--pull", "") == ["always", "missing", "never"]
    assert offered(files, "--profile", "") == ["jobs"]
    assert "--exit-code-from" in offered(files, "up", "--")


def test_a_broken_file_offers_nothing_and_says_nothing(files: ComposeFolder) -> None:
    files.write("services: [")
    done = files.run("__complete", "up", "")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
