"""Estimates: rows grow as they say, what is not known is said, and no cell is counted twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ddaudit.auditing import AUDITORS
from ddaudit.audits import AuditConfig, RunStore, make_plan, preview
from ddaudit.audits import costs as module
from ddaudit.audits.costs import Row, distillation, experts_kept, grown, step_ratio, table, trained
from ddaudit.audits.estimates import slowest_first
from ddaudit.audits.previews import PREPARING, duration, preview_of, size
from ddaudit.data import load_data
from ddaudit.distillation import METHODS, make_recipe
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.experts import Experts
from ddaudit.distillation.networks import fit
from ddaudit.models import Arch, build
from ddaudit.training import PROTOCOLS


def test_a_row_grows_by_the_share_that_follows_each_number() -> None:
    row = Row(
        seconds=10.0,
        at={"loop.iterations": 100, "images": 100, "pixels": 64, "width": 32},
        counts={"loop.iterations": 0.8},
        work={"step": 0.5},
        batches={"images": 0.4},
        width_power=2.0,
    )
    same = dict(row.at)
    assert grown(row, same, {"step": step_ratio(row, same)}) == 10.0
    steps = {**same, "loop.iterations": 300}
    assert grown(row, steps, {"step": 1.0}) == pytest.approx(10 * (0.2 + 0.8 * 3))
    wide = {**same, "width": 64, "images": 200}
    assert step_ratio(row, wide) == pytest.approx(4 * (0.6 + 0.4 * 2))
    assert grown(row, wide, {"step": 5.6}) == pytest.approx(10 * (0.5 + 0.5 * 5.6))
    unknown = {"pixels": 64}
    assert grown(row, unknown, {"step": step_ratio(row, unknown)}) == 10.0


def test_a_share_above_one_grows_as_a_power_and_is_never_negative() -> None:
    """Twice the images took 1 + 1.36 times as long (dc): so does the estimate, and a tenth of them takes some time."""
    row = Row(seconds=1.0, at={"images": 100}, batches={"images": 1.36})
    assert step_ratio(row, {"images": 100}) == 1
    assert step_ratio(row, {"images": 200}) == pytest.approx(2.36)
    assert step_ratio(row, {"images": 400}) == pytest.approx(2.36**2)
    assert 0 < step_ratio(row, {"images": 10}) < 0.1


def test_no_part_of_any_row_is_negative_at_any_size() -> None:
    rows = [
        *table().methods.values(),
        *table().defenses.values(),
        *table().auditors.values(),
        *table().checks.values(),
    ]
    for row in rows:
        assert sum(row.work.values()) <= 1.001
        for factor in (1e-3, 0.5, 2.0, 1e3):
            now = {name: factor * value for name, value in row.at.items()}
            arithmetic = {"step": step_ratio(row, now), "training": factor, "network": factor}
            assert step_ratio(row, now) > 0
            assert grown(row, now, arithmetic) > 0


def test_a_step_reads_no_more_records_than_there_are() -> None:
    data, dm = load_data("digits"), make_recipe("dm", profile="small")
    assert module.quantities(dm, data, ipc=10)["reader.per_class"] == 64
    assert module.quantities(dm, data, ipc=10, records=200)["reader.per_class"] == 20


def test_training_grows_with_steps_networks_and_size() -> None:
    data, protocol = load_data("digits"), PROTOCOLS["quick"].for_data("")
    one = trained(Arch.parse("ConvNetW32"), data, protocol, images=100)
    assert trained(Arch.parse("ConvNetW32"), data, protocol, images=100, count=3) == one.times(3)
    short = replace(protocol, max_steps=protocol.schedule(100).steps // 2)
    half = trained(Arch.parse("ConvNetW32"), data, short, images=100)
    assert half.seconds == pytest.approx(one.seconds / 2, rel=0.01)
    assert trained(Arch.parse("ConvNetW128"), data, protocol, images=100).seconds > 2 * one.seconds


def test_what_was_not_measured_is_guessed_from_its_family_and_said_to_be() -> None:
    data, dm = load_data("digits"), make_recipe("dm", profile="small")
    assert not distillation(dm, data, ipc=1).rough
    guessed = distillation(replace(dm, name="unheard-of"), data, ipc=1)
    assert guessed.rough
    alike = [r.seconds for n, r in table().methods.items() if METHODS.get(n).family == dm.family]
    assert 0 < guessed.seconds <= max(alike)


def test_every_method_has_an_estimate() -> None:
    data = load_data("digits-colored:bias=0.5")
    for name in METHODS.names():
        for profile in ("small", "paper"):
            assert distillation(make_recipe(name, profile=profile), data, ipc=1).bytes > 0, name


def test_every_built_in_auditor_was_measured() -> None:
    built_in = {n for n in AUDITORS.names() if "/" not in n}
    assert built_in <= table().auditors.keys()
    assert built_in <= table().checks.keys()


def test_a_recipe_that_leaves_its_steps_open_is_guessed() -> None:
    # dc at its published values decides the number of outer steps by IPC
    recipe = make_recipe("dc", profile="paper")
    assert distillation(recipe, load_data("digits"), ipc=10).rough


def test_shadows_that_share_work_cost_less_than_as_many_distillations() -> None:
    data, dm = load_data("digits"), make_recipe("dm", profile="small")
    one, eight = distillation(dm, data, ipc=10), distillation(dm, data, ipc=10, runs=8)
    assert one.seconds < eight.seconds < 8 * one.seconds
    dc = make_recipe("dc", profile="small")
    assert distillation(dc, data, ipc=10, runs=8).seconds == pytest.approx(
        8 * distillation(dc, data, ipc=10).seconds
    )


def test_a_preview_counts_the_distillations_that_auditors_ask_for(tmp_path) -> None:
    config = AuditConfig(
        subjects=["dc"],
        baselines=["random"],
        auditors=["membership", "privacy", "backdoor", "utility"],
        out=str(tmp_path / "run"),
        settings={"backdoor": {"poison_ratios": [0.01, 0.05, 0.1]}},
    )
    shown = preview(config)
    counts = {r.auditor: r.distillations for r in shown.rows if r.subject == "dc"}
    shadows = AUDITORS.get("membership").configure("quick").shadows
    assert counts == {
        "membership": shadows, "privacy": 1, "backdoor": 3, "utility": 0, PREPARING: 1
    }  # fmt: skip
    again = sum(r.distilling.seconds for r in shown.again)
    count = sum(r.distillations for r in shown.again)
    assert 0 < again < shown.cost.seconds
    assert f"in {count} distillations for membership, privacy, backdoor" in shown.line()
    assert not (tmp_path / "run").exists()


def test_what_experts_and_teachers_leave_on_disk_is_counted(tmp_path) -> None:
    data = load_data("digits")
    paper = make_recipe("mtt", profile="paper")
    (path,) = [n for n in (paper.networks,) if isinstance(n, ExpertPaths)]
    net = build(
        fit(Arch.parse(path.arch), data.shape),
        shape=data.shape,
        num_classes=10,
        seed=0,
        mean=(0.0,),
        std=(1.0,),
    )
    size = 4 * sum(p.numel() for p in net.parameters())
    assert experts_kept(paper, data) == size * 100 * 51
    found = distillation(paper, data, ipc=1)
    assert (
        0 < found.bytes < size
    )  # 'ddaudit distill' writes the set alone; runs of audits keep experts
    config = AuditConfig(
        subjects=["mtt"], baselines=[], auditors=["utility"], out=str(tmp_path / "run"),
        options={"networks.count": 100, "networks.epochs": 50, "networks.width": 128},
    )  # fmt: skip
    assert preview(config).cost.bytes > size * 100 * 51
    assert found.rough  # 66 times the training that its row was measured with
    assert experts_kept(make_recipe("dm", profile="small"), data) == 0
    several = make_recipe("g-vbsm", profile="small")
    assert isinstance(several.networks, Experts)
    first, second = several.networks.archs()[0], several.networks.archs()[1]
    alone = [
        replace(several, networks=replace(several.networks, arch=str(a), width=None))
        for a in (first, second)
    ]
    assert experts_kept(several, data) >= sum(experts_kept(one, data) for one in alone)
    views = make_recipe("sre2l", profile="paper")
    assert distillation(views, data, ipc=10).bytes > 300 * 100 * (29 + 20)


def test_what_others_wait_for_begins_with_the_longest(tmp_path) -> None:
    config = AuditConfig(
        subjects=["dm"], baselines=["random", "full"], auditors=["utility", "leakage"],
        out=str(tmp_path / "run"),
    )  # fmt: skip
    store = RunStore(config.out)
    plan = make_plan(config, store)
    cells = [*plan.preparations, *(c for c in plan.cells if c.subject is None)]
    order = slowest_first(plan, cells, store)
    assert sorted(c.key for c in order) == sorted(c.key for c in cells)
    assert (order[0].subject, order[0].auditor) == ("full", None)  # networks on all records
    assert order[-1].subject is None  # checks of a few seconds fill the gaps


def test_cells_whose_question_does_not_apply_cost_nothing(tmp_path) -> None:
    """Digits have no groups, no tail and no known noise; random records have hard labels, and a known origin."""
    idle = ["bias", "tail", "noise", "soft-labels", "backdoor-scan"]
    config = AuditConfig(
        subjects=["random"], baselines=[], auditors=[*idle, "utility"], out=str(tmp_path / "run")
    )
    cost = {r.auditor: r.cost.seconds for r in preview(config).rows if r.subject == "random"}
    assert [cost[name] for name in idle] == [0] * len(idle)
    assert cost["utility"] > 0


def test_more_seeds_cost_in_proportion(tmp_path) -> None:
    def seconds(seeds: int) -> float:
        config = AuditConfig(
            subjects=["dm"], baselines=[], auditors=["utility"], seeds=seeds, out=str(tmp_path)
        )
        plan = make_plan(config, RunStore(config.out))
        shown = preview_of(plan, RunStore(config.out))
        return sum(r.cost.seconds for r in shown.rows if r.subject == "dm")

    assert seconds(4) == pytest.approx(4 * seconds(1))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (40, "40 s"), (720, "12 min"), (12_600, "3.5 h")]
)
def test_durations_are_in_the_unit_people_would_take(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_are_in_the_unit_people_would_take() -> None:
    assert [size(n) for n in (0, 340_000, 12_000_000, 1.23e9)] == [
        "0.0 kB",
        "340 kB",
        "12 MB",
        "1.2 GB",
    ]


def test_the_table_says_where_it_was_measured() -> None:
    assert {"processor", "torch", "measured"} <= table().machine.keys()
    assert module.table() is module.table()


def test_experts_of_all_seeds_are_counted_once(tmp_path) -> None:
    config = AuditConfig(
        subjects=["mtt"], baselines=[], auditors=["utility"], seeds=3, out=str(tmp_path / "run")
    )
    kept = experts_kept(make_recipe("mtt", profile="small"), load_data("digits"))
    assert kept < preview(config).cost.bytes < 2 * kept
