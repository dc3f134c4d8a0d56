"""Reading Dockerfiles."""

import pytest

from dockyard.builder import stages
from dockyard.dockerfile import instructions
from dockyard.dockerfile import parser as dockerfile
from dockyard.dockerfile.image_config import changed
from dockyard.dockerfile.instructions import Command, Copy, From, HealthCheck, Pairs, Text, Words
from dockyard.dockerfile.substitution import expand, expand_words
from dockyard.errors import InvalidParameter
from dockyard.oci.image_config import ContainerConfig


def nodes(text: str) -> list[dockerfile.Node]:
    return dockerfile.parse(text).nodes


def one(line: str) -> instructions.Instruction:
    return instructions.parse(nodes(line)[0])


def test_comments_blank_lines_and_continuations_make_one_line() -> None:
    found = nodes("# a comment\nFROM a\n\nRUN one && \\\n  # inside\n\n  two \\\n  three\n")
    assert [(node.word, node.rest, node.line) for node in found] == [
        ("FROM", "a", 2),
        ("RUN", "one &&   two   three", 4),
    ]


def test_an_empty_continuation_line_is_warned_of() -> None:
    assert "Empty continuation line" in dockerfile.parse("FROM a\nRUN b \\\n\n c\n").warnings[0]


def test_the_escape_directive_changes_continuations() -> None:
    found = dockerfile.parse("# escape=`\nFROM a\nRUN dir `\n c:\\\n")
    assert found.escape == "`"
    assert found.nodes[1].rest == "dir  c:\\"
    with pytest.raises(InvalidParameter, match="invalid escape token"):
        dockerfile.parse("# escape=x\nFROM a\n")


def test_heredocs_belong_to_their_instruction() -> None:
    found = nodes("FROM a\nCOPY <<one <<-'two' /d/\n$x\none\n\ty\n\ttwo\nRUN x\n")
    assert [(doc.name, doc.text, doc.expand) for doc in found[1].heredocs] == [
        ("one", "$x\n", True),
        ("two", "y\n", False),
    ]
    assert found[2].rest == "x"
    script = one("RUN <<EOF\nset -e\necho $x\nEOF\n")
    assert isinstance(script, Command)
    assert script.words == ("set -e\necho $x\n",)
    with pytest.raises(InvalidParameter, match="unterminated heredoc"):
        nodes("FROM a\nRUN <<EOF\nx\n")


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(InvalidParameter, match=r"the Dockerfile \(Dockerfile\) cannot be empty"):
        dockerfile.parse("  \n", "Dockerfile")
    with pytest.raises(InvalidParameter, match="file with no instructions"):
        dockerfile.parse("# nothing\n")


def test_shell_and_exec_form() -> None:
    assert one('CMD ["a", "b c"]') == Command('CMD ["a", "b c"]', "CMD", ("a", "b c"), False)
    assert one("CMD a b").words == ("a b",)  # type: ignore[attr-defined]  # a Command
    assert one("RUN ['a']").shell  # type: ignore[attr-defined]  # single quotes are no JSON


def test_from_names_its_stage() -> None:
    assert one("FROM --platform=linux/amd64 busybox:1 AS Builder") == From(
        "FROM --platform=linux/amd64 busybox:1 AS Builder", "busybox:1", "builder", "linux/amd64"
    )
    with pytest.raises(InvalidParameter, match="FROM requires either one or three arguments"):
        one("FROM a b")
    with pytest.raises(InvalidParameter, match="name can't start with a number"):
        one("FROM a AS 1x")


def test_copy_takes_flags_and_both_forms() -> None:
    copy = one("COPY --from=b --chown=1:2 a b /c/")
    assert isinstance(copy, Copy)
    assert (copy.sources, copy.destination, copy.stage, copy.owner) == (("a", "b"), "/c/", "b", "1:2")
    spaced = one('ADD ["a b", "/c d"]')
    assert isinstance(spaced, Copy)
    assert spaced.sources == ("a b",)
    with pytest.raises(InvalidParameter, match="unknown flag: --from"):
        one("ADD --from=x a b")
    with pytest.raises(InvalidParameter, match="requires at least two arguments, but only one was provided"):
        one("COPY a")


def test_env_in_both_forms() -> None:
    assert one('ENV a=1 b="2 3" c=4\\ 5').pairs == (("a", "1"), ("b", '"2 3"'), ("c", "4\\ 5"))  # type: ignore[attr-defined]
    assert one("ENV a one two").pairs == (("a", "one two"),)  # type: ignore[attr-defined]
    assert isinstance(one("LABEL a=b"), Pairs)
    with pytest.raises(InvalidParameter, match=r"Syntax error - can't find = in \"b\""):
        one("ENV a=1 b")
    with pytest.raises(InvalidParameter, match="ENV must have two arguments"):
        one("ENV a")


def test_health_checks() -> None:
    check = one("HEALTHCHECK --interval=5m --timeout=3s --retries=2 CMD curl -f http://localhost/")
    assert isinstance(check, HealthCheck)
    assert check.check.test == ["CMD-SHELL", "curl -f http://localhost/"]
    assert (check.check.interval, check.check.timeout, check.check.retries) == (300 * 10**9, 3 * 10**9, 2)
    assert one("HEALTHCHECK NONE").check.test == ["NONE"]  # type: ignore[attr-defined]
    with pytest.raises(InvalidParameter, match=r'Unknown type "FOO" in HEALTHCHECK \(try CMD\)'):
        one("HEALTHCHECK foo")


def test_onbuild_keeps_its_trigger_with_flags() -> None:
    trigger = one("ONBUILD COPY --chown=1 . /app")
    assert isinstance(trigger, Text)
    assert trigger.text == "COPY --chown=1 . /app"
    with pytest.raises(InvalidParameter, match="FROM isn't allowed as an ONBUILD trigger"):
        one("ONBUILD FROM x")


def test_lists() -> None:
    assert one("EXPOSE 80 443/tcp") == Words("EXPOSE 80 443/tcp", "EXPOSE", ("80", "443/tcp"))
    assert one('VOLUME ["/a", "/b"]').values == ("/a", "/b")  # type: ignore[attr-defined]
    with pytest.raises(InvalidParameter, match="SHELL requires the arguments to be in JSON form"):
        one("SHELL bash")


def test_mistakes_name_their_line() -> None:
    with pytest.raises(InvalidParameter, match=r"^dockerfile parse error on line 2: unknown instruction: PULL$"):
        stages.plan(dockerfile.parse("FROM a\nPULL b\n"))
    with pytest.raises(InvalidParameter, match=r"unknown instruction: RNU \(did you mean RUN\?\)"):
        stages.plan(dockerfile.parse("FROM a\nRNU b\n"))
    with pytest.raises(InvalidParameter, match="no build stage in current context"):
        stages.plan(dockerfile.parse("RUN a\n"))


def test_stages_know_what_they_need() -> None:
    plan = stages.plan(
        dockerfile.parse(
            "ARG V\nFROM a AS one\nFROM b AS two\nFROM one AS three\nCOPY --from=0 x y\nFROM c\nCOPY --from=three x y\n"
        )
    )
    assert [stage.needs for stage in plan.stages] == [set(), set(), {0}, {2}]
    assert [stage.index for stage in plan.needed(plan.target("THREE"))] == [0, 2]
    assert [stage.index for stage in plan.needed(plan.target(""))] == [0, 2, 3]
    assert plan.target("1").name == "two"
    with pytest.raises(InvalidParameter, match='target stage "nope" could not be found'):
        plan.target("nope")


VARIABLES = {"a": "1", "empty": "", "path": "/usr/local/bin", "words": "x  y"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("$a${a}b", "11b"),
        ("$none|${none}", "|"),
        ("${none:-d} ${empty:-d} ${empty-d} ${a:-d}", "d d  1"),
        ("${a:+y}${none:+y}${empty+z}", "yz"),
        ("${none:-${a}}", "1"),
        ("'$a' \"$a\"", "$a 1"),
        ("\\$a \"\\$a\" '\\$a'", "$a $a \\$a"),
        ('"a\\b" a\\b', "a\\b ab"),
        ("${path#*/} ${path##*/} ${path%/*} ${path%%/*}", "usr/local/bin bin /usr/local "),
        ("${path/local/x} ${path//\\//-}", "/usr/x/bin -usr-local-bin"),
        ("cost: 5$ $", "cost: 5$ $"),
    ],
)
def test_variables(word: str, expected: str) -> None:
    assert expand(word, VARIABLES) == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("${a", "missing '}'"),
        ("${}", "bad substitution"),
        ("${a!b}", "unsupported modifier"),
        ("${none:?it}", "none: it"),
        ("'a", "matching single-quote"),
        ('"a', "matching double-quote"),
    ],
)
def test_bad_substitutions(word: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        expand(word, VARIABLES)


def test_words_split_after_expansion() -> None:
    assert expand_words('80 $words "$words"', VARIABLES) == ["80", "x", "y", "x  y"]


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        (['ENTRYPOINT ["e"]'], "cmd", None),
        (['ENTRYPOINT ["e"]', "CMD x"], "cmd", ["/bin/sh", "-c", "x"]),
        (["EXPOSE 80/udp 90-91"], "exposed_ports", {"80/udp": {}, "90/tcp": {}, "91/tcp": {}}),
        (["ENV B=$A-x"], "env", ["A=1", "B=1-x"]),
        (["ENV X=1\nUSER $X"], "user", "1"),
        (["WORKDIR /w", "WORKDIR $A"], "working_dir", "/w/1"),
        (['LABEL a="b c" d=e'], "labels", {"a": "b c", "d": "e"}),
        (["onbuild RUN --mount=type=x y"], "on_build", ["RUN --mount=type=x y"]),
        (["STOPSIGNAL SIGTERM"], "stop_signal", "SIGTERM"),
    ],
)
def test_a_change_configures_as_in_a_build(changes: list[str], field: str, value: object) -> None:
    config = changed(ContainerConfig(env=["A=1"], cmd=["sh"]), changes)
    assert getattr(config, field) == value


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("", "file with no instructions"),
        ("# nothing", "file with no instructions"),
        ("RUN x", "RUN is not a valid change command"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("USER", "USER requires exactly one argument"),
        ("HEALTHCHECK --interval=x CMD a", 'time: invalid duration "x"'),
        ("STOPSIGNAL SIGFOO", "invalid signal: SIGFOO"),
    ],
)
def test_a_change_that_is_none_is_refused_in_dockers_words(change: str, reason: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        changed(ContainerConfig(), [change])
    assert str(refused.value) == reason


def test_a_test_of_the_shell_in_front_of_a_document_is_no_array() -> None:
    node = dockerfile.parse('FROM a\nRUN [ -f x ] && cat <<EOF\nsaid\nEOF\nRUN ["cat", "<<EOF"]\n').nodes
    assert [one.content for one in node[1].heredocs] == ["said\n"]
    assert node[2].heredocs == ()


@pytest.mark.parametrize(
    "text",
    [
        # in the ways of well-known images: comments and blank lines inside a command, tabs, `;` and nested quotes
        (
            "#\n# NOTE: GENERATED\n#\nFROM a:1-slim\n\nRUN set -eux; \\\n\tapt-get update; \\\n# one\n\t\\\n\t# two\n\n"
            '\tgawk \'system("[ -e " $1 " ]") == 0 { print "x" | "sort -u" }\' \\\n\t; \\\n\trm -rf /x\n'
        ),
        # a platform's words, defaults within defaults, stages by number and images by digest
        (
            "ARG V=3\nARG BASE=a:${V:-1}-alpine${V:+3.2}\nFROM --platform=$BUILDPLATFORM ${BASE} AS build-env_1.x\n"
            f"FROM a@sha256:{'0' * 64}\nCOPY --from=0 --link --chown=9:0 /target/ /\nCOPY --from=build-env_1.x /a /b\n"
        ),
        # old forms, and values that look like other things
        (
            'FROM a\nENV PATH /usr/local/go/bin:$PATH\nENV GPG_KEY 7169\nLABEL a.b/c=\'x="y"\' d="e \\\n f"\n'
            'ENV A="b=c" D=e\\ f G=\'h\'\nSTOPSIGNAL SIGQUIT\nVOLUME ["/data"]\nEXPOSE 4369 5671/tcp 27017\n'
        ),
        # JSON that is none
        "FROM a\nRUN [ -e /x ] || { echo; }\nCMD [ \"x\", 'y' ]\nENTRYPOINT []\nRUN [[ $a == b ]] && c\n",
        # documents in a command, in one stage after another
        (
            "FROM a\nRUN cat <<'EOF' | sh -eux\nfor x in 1; do\n  echo \"<<no\"\ndone\nEOF\nFROM b\n"
            'COPY <<-"ONE" <<TWO /d/\n\tx\n\tONE\ny\nTWO\nRUN <<A cat && <<B cat\n1\nA\n2\nB\n'
        ),
        # Windows
        (
            '# escape=`\n\nFROM a\nSHELL ["powershell", "-Command", "$ErrorActionPreference = \'Stop\';"]\n'
            "RUN Write-Host ('a {0}' -f $env:X); `\n\tRemove-Item C:\\temp\\ -Force;\nWORKDIR C:\\\\app\nENV P C:\\x`\n"
        ),
        # triggers, checks with flags, mounts with quotes
        (
            "FROM a\nONBUILD COPY --chown=1 . /app\nONBUILD RUN --mount=type=cache,target=/c x\n"
            'HEALTHCHECK --interval=5s --start-period=1m30s CMD [ "x" ]\nHEALTHCHECK CMD x || exit 1\n'
            'RUN --mount=type=bind,from=b,source=/x,target="/a b" --mount=type=secret,id=t --network=none true\n'
        ),
    ],
)
def test_what_dockerfiles_of_well_known_images_do_is_understood(text: str) -> None:
    file = dockerfile.parse(text)
    plan = stages.plan(file, classic=False)
    assert sum(len(stage.steps) + 1 for stage in plan.stages) + len(plan.arguments) == len(file.nodes)


def test_no_pattern_takes_longer_the_more_wildcards_it_has() -> None:
    values = {"a": "a" * 3000}
    assert expand("${a##*a*a*a*a*a*a*b}${a//a*a*a*a*b/x}", values) == "a" * 6000
    assert expand("${a%%a*a?a}${a/a*/x}${a//aaa/b}", values) == "x" + "b" * 1000
