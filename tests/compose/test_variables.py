"""${…} in all of its forms, and files of variables."""

import pytest

from dockyard.compose.errors import ComposeError
from dockyard.compose.model import dotenv
from dockyard.compose.model.variables import InvalidTemplate, MissingVariable, references, substitute

KNOWN = {"SET": "value", "EMPTY": "", "INNER": "SET"}


def expanded(text: str) -> str:
    return substitute(text, KNOWN.get)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("$SET-$EMPTY-${SET}", "value--value"),
        ("$$SET $${SET}", "$SET ${SET}"),
        ("${SET:-x} ${EMPTY:-x} ${NONE:-x}", "value x x"),
        ("${SET-x} ${EMPTY-x} ${NONE-x}", "value  x"),
        ("${SET:+x} ${EMPTY:+x} ${NONE:+x}", "x  "),
        ("${SET+x} ${EMPTY+x} ${NONE+x}", "x x "),
        ("${NONE:-${EMPTY:-${SET}}}", "value"),
        ("${NONE:-http://x:80/?a=b}", "http://x:80/?a=b"),
        ("${SET:?wanted} ${EMPTY?wanted}", "value "),
        ("${NONE}", ""),
        ("a ${NONE:-b} c ${SET} d", "a b c value d"),
    ],
)
def test_references_are_replaced(text: str, wanted: str) -> None:
    assert expanded(text) == wanted


def test_what_must_be_set_is_missed_with_the_reason_given() -> None:
    with pytest.raises(MissingVariable, match=r"required variable NONE is missing a value: say value"):
        expanded("${NONE:?say ${SET}}")


@pytest.mark.parametrize("text", ["${", "$ {SET}", "${SET", "${1}", "${SET!x}"])
def test_a_dollar_that_starts_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidTemplate):
        expanded(text + "${")


def test_references_are_found_nested_ones_too() -> None:
    found = {one.name: (one.required, one.default) for one in references("$A ${B:-x${C?}} ${D?no}")}
    assert found == {"A": (False, ""), "B": (False, "x${C?}"), "C": (True, ""), "D": (True, "")}


def parsed(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    dotenv.parse(text, found, KNOWN.get)
    return found


def test_a_file_of_variables_is_read_as_composes_is() -> None:
    text = r"""
# a comment
PLAIN=a b  # another
export EXPORTED = yes
SINGLE='$SET "as" \'it\' is'
DOUBLE="$SET\tand ${PLAIN}
second \$line"
YAML: style
SET
EMPTY_VALUE=
UNSET_NAME
"""
    assert parsed(text) == {
        "PLAIN": "a b",
        "EXPORTED": "yes",
        "SINGLE": "$SET \"as\" 'it' is",
        "DOUBLE": "value\tand a b\nsecond $line",
        "YAML": "style",
        "SET": "value",
        "EMPTY_VALUE": "",
    }


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("A=1\nB B=2", "line 2: key cannot contain a space"),
        ('A="1', 'line 1: unterminated quoted value "1'),
        ("A=1\n&=2", 'line 2: unexpected character "&" in variable name "&=2"'),
    ],
)
def test_what_is_wrong_in_a_file_of_variables_is_said_with_its_line(text: str, wrong: str) -> None:
    with pytest.raises(ComposeError) as caught:
        parsed(text)
    assert str(caught.value) == wrong
