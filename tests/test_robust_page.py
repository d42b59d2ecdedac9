"""The page of robust distillation says what its verdicts show, and names what is not measured."""

from benchmarks.robust import Row, all_rows, page


def cell(standing: int, *, attacked: int = 0) -> dict:
    """100 images of which the first ``standing`` stand under PGD, ``attacked`` of 200 under AutoAttack."""
    bits = (
        dict.fromkeys(("1", "2", "8"), "1" * attacked + "0" * (200 - attacked)) if attacked else {}
    )
    return {"clean": 0.9, "pgd": "1" * standing + "0" * (100 - standing), "bits": bits}


def says(**cells: dict) -> dict[str, str]:
    made = page({"digits": {f"{k.replace('_', '/')}/0": v for k, v in cells.items()}}, all_rows())
    duels = made[made.index("Gains of each variant") :].splitlines()
    return {r.split("`")[1]: r.split("|")[-2].strip() for r in duels if r.startswith("| `")}


def test_a_variant_helps_where_it_beats_its_base_and_the_base_at_equal_accuracy():
    base, hard = cell(50), cell(80)
    itself = {"mtt_stopped_mtt+adversarial": {"base": True}}  # the base is no more accurate
    known = {"mtt_plain": base, "mtt_adversarial": hard, **itself}
    for standing, verdict in (
        (70, "helps, no more than training under attack"),
        (95, "helps, more than training under attack"),
        (51, "no help shown"),
        (20, "hurts"),
    ):
        assert says(**known, **{"mtt+adversarial_plain": cell(standing)}) == {
            "mtt+adversarial": verdict
        }
    alone = {"mtt_plain": base, "mtt+adversarial_plain": cell(70)}
    assert says(**alone) == {"mtt+adversarial": "helps; nothing of equal accuracy beside it"}
    stopped = {"mtt_stopped_mtt+adversarial": cell(70)}
    assert says(**{**known, **stopped}, **{"mtt+adversarial_plain": cell(71)}) == {
        "mtt+adversarial": "no help shown"
    }


def test_autoattack_decides_where_both_have_it_and_what_is_missing_is_named():
    cells = {
        "mtt/plain/0": cell(50, attacked=160),
        "mtt+adversarial/plain/0": cell(90, attacked=80),
    }
    made = page({"digits": cells}, all_rows())
    (row,) = [r for r in made.splitlines() if r.startswith("| `mtt+adversarial` | -40.0")]
    assert row.endswith("| hurts |")
    assert "(PGD)" not in row
    assert "Not measured yet on Digits" in made
    assert "Not measured yet on Fashion-MNIST: all rows." in made
    assert len({r.key for r in all_rows()}) == len(all_rows())
    assert Row("dm", "dm", "stopped", "dm+guard").key == "dm/stopped/dm+guard"
