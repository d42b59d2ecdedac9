"""Names and numbers as shown."""

from __future__ import annotations

import math

import pytest

from ddaudit.findings import Metric
from ddaudit.reports import labels


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.7184, "fraction", "0.718"),
        (0.0, "fraction", "0.000"),
        (1.0, "fraction", "1.000"),
        (0.004, "fraction", "0.0040"),
        (0.00012, "fraction", "0.00012"),
        (3e-6, "fraction", "3.0e-06"),
        (-0.25, "fraction", "−0.250"),
        (2.3094, "epsilon", "2.31"),
        (1.7, "1", "1.70"),
        (0, "1", "0"),
        (12345.6, "images", "12,346"),
        (None, "fraction", "–"),
        (math.nan, "fraction", "–"),
        (math.inf, "epsilon", "∞"),
    ],
)
def test_number(value: float | None, unit: str, text: str) -> None:
    assert labels.number(value, unit) == text


def test_signed_numbers_carry_their_sign_and_zero_has_none() -> None:
    assert [labels.signed(v) for v in (0.1, -0.1, 0.0, -0.0)] == [
        "+0.100",
        "−0.100",
        "0.000",
        "0.000",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10.0, "10"),
        (1e-5, "1e-5"),
        (0.00015, "1.5e-4"),
        (1e7, "1e7"),
        (0.5, "0.5"),
        (1e12, "1e12"),
        (1.23456, "1.235"),
    ],
)
def test_constants_as_people_write_them(value: float, text: str) -> None:
    assert labels.brief(value) == text


def test_metric_names_and_params() -> None:
    tpr = Metric(
        name="membership.tpr_at_fpr",
        label="TPR",
        value=0.1,
        params={"attack": "lira", "fpr": 0.001},
    )
    assert labels.full_name(tpr) == "TPR at 0.1% FPR (lira)"
    assert labels.full_name(tpr, params=False) == "TPR at 0.1% FPR"
    assert (
        labels.params_text({"attack": "pgd", "norm": "linf", "eps": 8 / 255, "targeted": False})
        == "pgd, linf, eps 8/255, no targeted"
    )
    assert labels.params_text({"delta": 1e-5}) == "δ 1e-5"
    bare = Metric(name="mine.worst_class_ece", value=0.1)
    assert labels.metric_name(bare) == "worst class ECE"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-01-05T10:11:42Z", "2026-01-05 10:11 UTC"),
        ("2026-01-05T10:11:42+00:00", "2026-01-05 10:11 UTC"),
        ("2026-01-05T10:11:42+02:00", "2026-01-05 10:11 +0200"),
        ("yesterday", "yesterday"),
    ],
)
def test_moment(text: str, shown: str) -> None:
    assert labels.moment(text) == shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.51, "0.5 s"), (59.0, "59 s"), (75.2, "1 min 15 s"), (7260, "2 h 1 min"), (None, "–")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert labels.duration(seconds) == text


def test_long_names_are_cut_in_the_middle() -> None:
    assert labels.short("a" * 40 + "end", 12) == "aaaaaaa…aend"
    assert len(labels.short("x" * 99, 28)) == 28


def test_text_that_reorders_what_follows_is_defused() -> None:
    assert labels.visible("a\u202eb\x00c\nd") == "a\ufffdb\ufffdc\nd"
