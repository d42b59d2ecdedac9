"""The grammar of data specs: what is read, what is refused, and the canonical spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddaudit.data.spec import Option, canonical, parse_spec, resolve_options
from ddaudit.errors import BadInput

BIAS = Option("bias", 0.9, "share", low=0.0, high=1.0)
SIZE = Option("size", 0, "pixels", low=0, high=64)
KIND = Option("kind", "a", "which", choices=("a", "b"))
PATH = Option("path", "", "folder", required=True)


def test_a_spec_is_a_name_and_options() -> None:
    assert parse_spec("digits") == ("digits", {})
    assert parse_spec(" noisy : rate=0.4 , kind=pair ".replace(" :", ":")) == (
        "noisy",
        {"rate": "0.4", "kind": "pair"},
    )


def test_parentheses_hold_a_spec_within_a_spec_and_commas() -> None:
    name, options = parse_spec("long-tail:base=(parquet:path=(a,b),size=32),imbalance=10")
    assert name == "long-tail"
    assert options == {"base": "parquet:path=(a,b),size=32", "imbalance": "10"}


def test_a_value_may_contain_equals_and_colons() -> None:
    assert parse_spec("parquet:path=C:/x=y")[1] == {"path": "C:/x=y"}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "is not the name"),
        (":a=1", "is not the name"),
        ("digits:", "ends after ':'"),
        ("digits:bias", "is not option=value"),
        ("digits:=3", "is not option=value"),
        ("digits:a=1,a=2", "twice"),
        ("x:base=(y:a=1", "parentheses"),
        ("x:base=y)", "parentheses"),
    ],
)
def test_a_malformed_spec_is_refused_in_one_line(spec: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as error:
        parse_spec(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        (BIAS, "1.01", "out of range"),
        (BIAS, "-0.1", "out of range"),
        (BIAS, "nan", "out of range"),
        (BIAS, "inf", "out of range"),
        (BIAS, "much", "must be a number"),
        (SIZE, "1.5", "must be a whole number"),
        (SIZE, "65", "out of range"),
        (KIND, "c", "must be one of a, b"),
        (PATH, "", "must not be empty"),
    ],
)
def test_a_bad_value_names_what_is_accepted(option: Option, text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as error:
        option.parse(text, "spec")
    assert option.usage in str(error.value)


def test_options_are_resolved_with_defaults_and_types() -> None:
    values = resolve_options({"bias": "1"}, (BIAS, SIZE, KIND), name="x", where="x:bias=1")
    assert values == {"bias": 1.0, "size": 0, "kind": "a"}
    assert isinstance(values["bias"], float)
    assert isinstance(values["size"], int)


def test_an_unknown_and_a_missing_option_name_the_accepted_ones() -> None:
    with pytest.raises(BadInput, match=r"no option 'rate'\. Accepted: bias=0\.9 \(0 to 1\)\."):
        resolve_options({"rate": "1"}, (BIAS,), name="x", where="x:rate=1")
    with pytest.raises(BadInput, match="needs path=TEXT"):
        resolve_options({}, (PATH,), name="x", where="x")
    with pytest.raises(BadInput, match="Accepted: no options"):
        resolve_options({"rate": "1"}, (), name="x", where="x")


def test_the_canonical_spelling_leaves_defaults_out_and_keeps_the_declared_order() -> None:
    values = {"bias": 0.95, "size": 32, "kind": "a"}
    assert canonical("x", values, (BIAS, SIZE, KIND)) == "x:bias=0.95,size=32"
    assert canonical("x", {"bias": 0.9}, (BIAS,)) == "x"
    assert canonical("x", {"bias": 1.0}, (BIAS,)) == "x:bias=1"


TEXT = st.text(alphabet="abz09./_-=: ", min_size=1).map(str.strip).filter(bool)
NESTED = st.builds(lambda a, b: f"{a},({b})", TEXT, TEXT)


@given(
    bias=st.floats(0, 1),
    size=st.integers(0, 64),
    kind=st.sampled_from(["a", "b"]),
    path=st.one_of(TEXT, NESTED),
)
def test_reading_the_canonical_spelling_gives_the_same_options(
    bias: float, size: int, kind: str, path: str
) -> None:
    accepted = (BIAS, SIZE, KIND, PATH)
    values = {"bias": bias, "size": size, "kind": kind, "path": path}
    spec = canonical("x", values, accepted)
    name, options = parse_spec(spec)
    assert name == "x"
    assert resolve_options(options, accepted, name=name, where=spec) == values
