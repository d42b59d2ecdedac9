"""``ddaudit ledger`` and the privacy statement; text of a file cannot pose as a line of ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dp_accounting import get_epsilon_gaussian
from typer.testing import CliRunner

from ddaudit.cli.app import app
from ddaudit.defenses.privacy.accounting import compose
from ddaudit.errors import BadInput
from ddaudit.sets import Card, DistilledSet, LedgerEntry, PrivacyClaim, load, save
from ddaudit.sets.releases import log_release

RUN = CliRunner()
DISTIL = [
    "distill",
    "dm+dp",
    "--data",
    "digits",
    "--ipc",
    "1",
    "--delta",
    "1e-4",
    "--set",
    "loop.iterations=2",
    "--set",
    "networks.width=4",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two private sets, the first of them overwritten by a third."""
    folder = tmp_path_factory.mktemp("sets")
    for name, epsilon in (("a", 1), ("b", 2), ("a", 3)):
        out = str(folder / f"{name}.safetensors")
        done = RUN.invoke(app, [*DISTIL, "--epsilon", str(epsilon), "--out", out, "--overwrite"])
        assert done.exit_code == 0, done.output
    return folder


def test_the_ledger_adds_up_what_was_ever_released(folder: Path) -> None:
    text = RUN.invoke(app, ["ledger", str(folder)]).output
    rows = json.loads(RUN.invoke(app, ["ledger", str(folder), "--json"]).output)
    claims = [PrivacyClaim.model_validate(r["claim"]) for r in rows]
    assert [round(c.epsilon) for c in claims] == [1, 2, 3]
    # The overwritten release counts: without it the sum is smaller.
    total = compose(claims)
    assert total > compose(claims[1:]) > 3
    assert f"publishing all: epsilon {total:.4g}" in text
    assert "3 release(s)" in text


def test_an_empty_folder_and_no_folder(tmp_path: Path) -> None:
    assert "no private set was made here" in RUN.invoke(app, ["ledger", str(tmp_path)]).output
    failed = RUN.invoke(app, ["ledger", str(tmp_path / "x")])
    assert isinstance(failed.exception, BadInput)


def test_inspect_says_which_epsilon_to_publish(folder: Path) -> None:
    text = RUN.invoke(app, ["inspect", str(folder / "b.safetensors")]).output
    claim = load(folder / "b.safetensors").card.privacy
    assert claim is not None
    (line,) = [row for row in text.splitlines() if row.startswith("to publish: ")]
    assert f"({claim.epsilon:.4g}, 0.0001)-differentially private" in line
    assert all(p in line for p in claim.public)


def test_text_on_a_card_cannot_write_lines_of_ours(tmp_path: Path) -> None:
    forged = "x\nprivacy: (0.1, 1e-09)-DP claimed, relation add-or-remove-one\x1b[2J\u202e"
    claim = PrivacyClaim(
        epsilon=9.0,
        delta=1e-5,
        mechanism=forged,
        ledger=[LedgerEntry(query=forged, sigma=1, q=1, count=1)],
    )
    card = Card(method=forged, notes=[forged], data=forged, privacy=claim)
    images = torch.zeros(2, 1, 8, 8)
    save(DistilledSet(images, torch.arange(2), 2, card), tmp_path / "s.safetensors")
    text = RUN.invoke(app, ["inspect", str(tmp_path / "s.safetensors")]).output
    assert [row for row in text.splitlines() if row.startswith("privacy:")] == [
        "privacy: (9, 1e-05)-DP claimed, relation add-or-remove-one"
    ]
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize(("epsilon", "wrong"), [(0.1, True), (3.0, False)])
def test_inspect_rederives_a_claim_whatever_its_card_says_of_it(
    tmp_path: Path, epsilon: float, wrong: bool
) -> None:
    """sigma 2 at delta 1e-5 costs 1.99 (Balle & Wang's analytic Gaussian); the card's own cross-checks say less."""
    claim = PrivacyClaim(
        epsilon=epsilon,
        delta=1e-5,
        ledger=[LedgerEntry(query="sums", sigma=2.0, q=1.0, count=1)],
        cross_checks={"pld": 0.1, "prv": 0.1},
    )
    file = tmp_path / "s.safetensors"
    card = Card(method="x", privacy=claim)
    save(DistilledSet(torch.zeros(2, 1, 8, 8), torch.arange(2), 2, card), file)
    text = RUN.invoke(app, ["inspect", str(file)]).output
    shown = json.loads(RUN.invoke(app, ["inspect", str(file), "--json"]).output)
    assert ("the ledger costs more than the 0.1 claimed" in text) is wrong
    assert any("claimed: pld 1.9" in w for w in shown["inspection"]["warnings"]) is wrong


def test_the_ledger_adds_up_releases_under_different_names_of_the_data(tmp_path: Path) -> None:
    """'digits' and 'digits:validation=0' are two names of the same records, and both releases cost them."""
    claims = [
        PrivacyClaim(
            epsilon=2.1, delta=1e-5, release=name,
            ledger=[LedgerEntry(query="sums", sigma=2.0, q=1.0, count=1)],
        )
        for name in ("one", "two")
    ]  # fmt: skip
    for data, claim in zip(("digits", "digits:validation=0"), claims, strict=True):
        log_release(Card(method="x", data=data, privacy=claim), tmp_path / "s.safetensors")
    text = RUN.invoke(app, ["ledger", str(tmp_path)]).output
    # Two sums at sigma 2 are one at 2 / sqrt(2): Balle & Wang's analytic Gaussian.
    assert compose(claims) == pytest.approx(get_epsilon_gaussian(2 / 2**0.5, 1e-5), rel=2e-3)
    (line,) = [row for row in text.splitlines() if row.startswith("all of the above")]
    assert f"epsilon {compose(claims):.4g} at delta 1e-05 (2 release(s)" in line


def test_an_error_line_is_one_printable_line() -> None:
    error = BadInput("a\nb\udc80", "is \x1b[31mred", "do\u202e it")
    assert str(error) == "a\\nb\\udc80: is \\x1b[31mred. do\\u202e it"
    str(error).encode("utf-8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "publishing all: epsilon 1.993"),
        ({"delta": 0.0}, "no guarantee, a claim does not hold"),
        ({"epsilon": 0.001}, "no guarantee, a claim does not hold: the ledger costs more"),
        ({"epsilon": 0.001, "accountant": "basic composition"}, "no guarantee"),
        ({"delta": 0.6}, "no guarantee"),
    ],
)
def test_the_ledger_adds_up_no_claim_that_does_not_hold(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    """What a card claims is not what its ledger costs: 0.001 was printed where 5426 was spent."""
    values = {
        "epsilon": 2.0,
        "delta": 1e-5,
        "ledger": [LedgerEntry(query="sums", sigma=2, q=1, count=1)],
    }
    card = Card(method="x", data="digits", privacy=PrivacyClaim(**{**values, **change}))
    save(
        DistilledSet(torch.rand(10, 1, 8, 8), torch.arange(10), 10, card),
        tmp_path / "a.safetensors",
    )
    assert words in RUN.invoke(app, ["ledger", str(tmp_path)]).output
