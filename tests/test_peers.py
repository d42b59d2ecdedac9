"""Timing other people's code: what does not compute the same is not timed."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.peers import Case, modules_of, row

FAST = Case(
    "a step", (1.0, 1.00005), lambda n: [(2.0, 3.0)] * n, lambda n: [(1.0, 1.5)] * n, 5e8, 2.5
)


def test_a_row_gives_medians_their_ratio_and_the_share_of_the_machine() -> None:
    text = row(FAST, rounds=3, rate=1e9)
    assert "| 2.000 | 1.000 | **2.00x** (2.5x) | 3.000 | 1.500 | 50% |" in text


def test_steps_with_unequal_losses_are_not_timed() -> None:
    def never(n: int) -> list[tuple[float, float]]:
        raise AssertionError("timed")

    text = row(replace(FAST, losses=(1.0, 1.001), theirs=never, ours=never), rounds=3, rate=1e9)
    assert "NOT EQUAL" in text


def test_a_peer_s_modules_are_gone_when_its_rows_are_done(tmp_path) -> None:
    import sys

    (tmp_path / "utils.py").write_text(
        "from scipy.ndimage.interpolation import rotate as r\nfrom networks import VALUE\n"
    )
    (tmp_path / "networks.py").write_text("VALUE = 3\n")
    with modules_of(tmp_path) as theirs:
        assert theirs.utils.VALUE == 3
    assert "utils" not in sys.modules
    assert "networks" not in sys.modules
    assert str(tmp_path) not in sys.path
