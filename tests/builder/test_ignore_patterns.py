"""Patterns of .dockerignore and of COPY: what they match, and that a hostile one holds nobody up."""

import pytest

from dockyard.dockerfile.dockerignore import BadPattern, IgnoreRules, match


@pytest.mark.parametrize(
    ("pattern", "path", "excluded"),
    [
        ("*.log", "a.log", True),
        ("*.log", "a/b.log", False),
        ("**/*.log", "a/b.log", True),
        ("**/*.log", "b.log", True),
        ("a**/b", "ab", True),
        ("a**/b", "axx/y/b", True),
        ("a**b", "a/x/b", True),
        ("a*b*c", "aXbXbXc", True),
        ("**/a/**/b", "x/a/b", True),
        ("**/a/**/b", "xa/b", False),
        ("a/*/c", "a/b/c/d", True),
        ("a/*/c", "a/b/x/c", False),
    ],
)
def test_wildcards_match_as_in_docker(pattern: str, path: str, excluded: bool) -> None:
    assert IgnoreRules([pattern]).excludes(path) == excluded


@pytest.mark.parametrize(
    "pattern", ["*a" * 12 + "b", "**a" * 12 + "b", "**/*a/" * 9 + "b", "**/a*/" * 9 + "b", "**/a*" * 4 + "b"]
)
@pytest.mark.timeout(20)
def test_a_pattern_takes_no_more_time_than_its_names_are_long(pattern: str) -> None:
    rules = IgnoreRules([pattern])
    assert not rules.excludes("a" * 4095)
    assert not rules.excludes("/".join("a" * 2048))
    assert not match(pattern, "a" * 4095)


def test_a_pattern_with_too_many_wildcards_in_names_is_none() -> None:
    with pytest.raises(BadPattern, match="too many"):
        IgnoreRules(["**/a*" * 9 + "b"])


def test_a_stars_number_takes_no_wildcard_over_a_slash() -> None:
    assert match("a***", "abc")
    assert not match("a***", "a/c")
    assert match(r"a\**", "a*bc")
    assert not match(r"a\**", "abc")
