"""Collect a run folder: what a report is built from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ddaudit.attacks.privacy.claims import ON_CARD, check_claim
from ddaudit.audits.info import damaged
from ddaudit.audits.store import RunStore
from ddaudit.errors import BadInput
from ddaudit.files import kind_of
from ddaudit.findings import NOT_RUN, Check, Finding
from ddaudit.later import switched_on
from ddaudit.sets import Card, DistilledSet, digest, fingerprint

_Cell = tuple[str, str, int | None]
_SIZE = "images per class"
_RAN = "instrument checks ran"


@dataclass(frozen=True, eq=False)
class Collected:
    """One or several run folders, read back.

    Attributes:
        info: run.json of the first run, with ``missing`` = cells that were planned and never finished.
        subjects: per subject its entry in run.json, plus "set" (a DistilledSet or None), "card", "per_class" (fewest
            and most images of a class), "claim_checks" (what the card alone says of its privacy claim, where no auditor
            did) and "problem" (why what was audited is not what is there now, or None).
        auditors: per auditor its entry in run.json.
        cells: one Finding per (subject, auditor, seed).
        checks: instrument checks by auditor.
        keys: where each cell is stored, by (subject, auditor, seed): equal keys are equal work.
    """

    info: dict[str, Any]
    subjects: list[dict[str, Any]]
    auditors: list[dict[str, Any]]
    cells: list[Finding]
    checks: dict[str, list[Check]] = field(default_factory=dict)
    keys: dict[_Cell, str] = field(default_factory=dict)


def collect(urls: list[str]) -> Collected:
    """Read runs back; several runs of one data set become one report, and so do all audits into one folder.

    A subject that another run knows by the same name, and that is something else, takes along what tells it apart: its
    size or its epsilon (``dm (IPC 50)``), or its run's name. An instrument check counts as failed if it failed in any
    of the runs.

    Raises:
        BadInput: no run there, or runs on different data or with different victims.
    """
    named = [part for url in urls for part in _parts(url)]
    urls, parts = [n for n, _ in named], [p for _, p in named]
    first = parts[0]
    first.info["notes"] = []
    measured = {a["name"]: (urls[0], _conditions(first.info, a)) for a in first.auditors}
    for url, part in zip(urls[1:], parts[1:], strict=True):
        if other := _other_world(first.info, part.info):
            raise BadInput(url, f"{other} than {urls[0]}", "One report compares like with like.")
        known = {s["id"]: s for s in first.subjects}
        both = set(first.info.get("seeds") or ()) & set(part.info.get("seeds") or ())
        names = {
            s["id"]: _told_apart(s, known, url, again=bool(both) and _released_again(s, known))
            for s in part.subjects
        }
        part = _renamed(part, names)
        sizes = [(p.info.get("config") or {}).get("ipc") for p in (first, part)]
        # All records are the same ones whatever size was asked for, measured once more.
        again = {s["id"] for s in part.subjects if s.get("drawn") is False and sizes[0] != sizes[1]}
        # Seeds under other conditions are no more seeds of the same number.
        elsewhere = {
            entry["name"]
            for entry in part.auditors
            if entry["name"] in measured
            and measured[entry["name"]][1] != _conditions(part.info, entry)
        }
        there = {(c.subject, c.auditor) for c in first.cells if c.auditor in elsewhere}
        # What the first run has only planned, and this one has finished under the same conditions, is there.
        done = {
            _cell(c) for c in part.cells if not c.not_run and (c.subject, c.auditor) not in there
        }
        waits = {_cell(c) for c in first.cells if c.not_run} & done
        first.cells[:] = [c for c in first.cells if _cell(c) not in waits]
        for cell in waits:
            del first.keys[cell]
        new = [
            c
            for c in part.cells
            if _cell(c) not in first.keys and (c.subject, c.auditor) not in there
        ]
        twice = [
            c
            for c in part.cells
            if first.keys.get(_cell(c), part.keys[_cell(c)]) != part.keys[_cell(c)]
            and not c.not_run
            and c.subject not in again
        ]
        if twice:
            shared = ", ".join(dict.fromkeys(f"{c.subject} × {c.auditor}" for c in twice))
            first.info["notes"].append(
                f"{urls[0]} and {url} measured the same cells under different conditions. Shown are those of "
                f"{urls[0]}: {shared}."
            )
        caveats = _caveats(part, new, measured, url)
        first.info["notes"] += list(dict.fromkeys(caveats.values()))
        first.cells.extend(
            c.model_copy(update={"caveats": [caveats[c.auditor], *c.caveats]})
            if c.auditor in caveats
            else c
            for c in new
        )
        lost = [*first.info["missing"], *part.info["missing"]]
        if part.info.get("seeds"):
            first.info["seeds"] = sorted({*first.info.get("seeds", ()), *part.info["seeds"]})
        first.keys.update(part.keys | first.keys)
        first.subjects.extend(s for s in part.subjects if s["id"] not in known)
        for entry in part.auditors:
            if entry["name"] not in measured:
                measured[entry["name"]] = (url, _conditions(part.info, entry))
                first.auditors.append(entry)
        _add_checks(first.checks, part.checks)
        answered = {_cell(c) for c in first.cells if not c.not_run}
        first.info["missing"] = [
            c
            for c in lost
            if (_planned(c) not in answered if c["subject"] else _wait(first.checks[c["auditor"]]))
        ]
    return first


def check_joins(store: RunStore, info: dict[str, Any]) -> None:
    """Before an audit writes into a folder: what is there already must fit beside it in one report.

    Raises:
        BadInput: the folder holds an audit of other data or with other victims, or of something else under the name
            of one of its subjects.
    """
    where, todo = f"--out {store.url}", "Choose another --out; 'ddaudit report' takes several runs."
    info = json.loads(json.dumps(info, default=str))
    mine = {s["id"]: _identity(s) for s in info["subjects"]}
    for there in store.read_infos():
        if other := _other_world(there, info):
            raise BadInput(where, f"holds another audit, and this one {other} than that", todo)
        clashes = [
            s["id"]
            for s in there.get("subjects", [])
            if mine.get(s["id"], _identity(s)) != _identity(s)
        ]
        if clashes:
            what = (
                "holds something else under this name (other content, options or images per class)"
            )
            raise BadInput(where, f"{what}: {', '.join(clashes)}", todo)


def _other_world(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Why the numbers of two runs have nothing to do with each other, as words after "this run"; "": they have."""
    data, its = one.get("data", {}), other.get("data", {})
    for what, name in (("fingerprint", "training records"), ("test_fingerprint", "test records")):
        if data.get(what) != its.get(what) and (
            what == "fingerprint" or (what in data and what in its)
        ):
            names = f"'{its.get('name')}', not '{data.get('name')}'"
            return f"audits other data ({names}: not the same {name})"
    for what in ("arch", "protocol"):
        if switched_on(other.get(what)) != switched_on(one.get(what)):
            return f"has another {what} ({_brief(other.get(what))}, not {_brief(one.get(what))})"
    return ""


def _brief(value: Any) -> str:
    return str(value.get("name", "?") if isinstance(value, dict) else value)


def _conditions(info: dict[str, Any], auditor: dict[str, Any]) -> dict[str, Any]:
    """What an auditor's numbers depend on besides subject, data and victims' protocol."""
    preset = info.get("preset") or {}
    found = {f"{auditor['name']}.{k}": v for k, v in (auditor.get("settings") or {}).items()}
    found |= {k: preset[k] for k in ("victims", "test_limit", "profile") if k in preset}
    places = {
        _SIZE: (info.get("config") or {}).get("ipc"),
        f"version of {auditor['name']}": auditor.get("version"),
        "ddaudit": (info.get("versions") or {}).get("ddaudit"),
    }
    return found | {k: v for k, v in places.items() if v is not None}


def _caveats(
    part: Collected, new: list[Finding], measured: dict[str, tuple[str, dict[str, Any]]], url: str
) -> dict[str, str]:
    """By auditor, a sentence on what this run did otherwise than the first run with that auditor."""
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in part.auditors:
        name = entry["name"]
        other, theirs = measured.get(name, (url, None))
        if theirs is None or not any(c.auditor == name for c in new):
            continue
        mine = _conditions(part.info, entry)
        stated = [s["card"].get("ipc") == mine.get(_SIZE) for s in part.subjects]
        changed = [
            f"{k} {mine.get(k)} instead of {theirs.get(k)}"
            for k in dict.fromkeys([*theirs, *mine])
            # Run folders of older releases do not say everything.
            if mine.get(k) != theirs.get(k)
            and (k.startswith(f"{name}.") or (k in mine and k in theirs))
            and not (k == _SIZE and all(stated))  # what every set says of itself
        ]
        if changed:
            groups.setdefault((other, ", ".join(changed)), []).append(name)
    out: dict[str, str] = {}
    for (other, what), names in groups.items():
        who = ", ".join(dict.fromkeys(c.subject for c in new if c.auditor in names))
        text = (
            f"Not measured alike: {url} has {what} in {other}. It concerns {', '.join(names)} of {who}; a "
            "difference to other subjects may come from that."
        )
        out.update(dict.fromkeys(names, text))
    return out


def _add_checks(mine: dict[str, list[Check]], theirs: dict[str, list[Check]]) -> None:
    """Add the instrument checks of another run; of one name, the failed one stays. Those that one of them has not run
    yet are the other's."""
    for name, checks in theirs.items():
        held = mine.setdefault(name, [])
        if _wait(held):
            held[:] = checks
        if _wait(checks):
            continue
        failed = {c.name for c in held if not c.passed}
        kept = {c.name for c in held} - {c.name for c in checks if not c.passed} | failed
        held[:] = [c for c in held if c.name in kept] + [c for c in checks if c.name not in kept]


def _wait(checks: list[Check]) -> bool:
    return any(c.name == _RAN and c.detail.startswith(NOT_RUN) for c in checks)


def _identity(subject: dict[str, Any]) -> tuple[Any, ...]:
    """What a subject is. A file is also what its card says (its wall time apart): the same images under another claim
    are not it."""
    card = subject.get("card") if subject["kind"] == "file" else None
    told = {k: v for k, v in card.items() if k != "seconds"} if card else None
    identity = subject.get("identity")
    if subject.get("drawn") is False:  # all there is, whatever size was asked for
        identity = str(identity).partition("-ipc")[0]
    return identity, told


def _released_again(subject: dict[str, Any], known: dict[str, dict[str, Any]]) -> bool:
    """Whether two runs made a private set each, of one recipe: noise was drawn anew, and what both cost adds up."""
    pair = subject, known.get(subject["id"], subject)
    mine, theirs = (((s.get("card") or {}).get("privacy") or {}).get("release") for s in pair)
    return subject["kind"] == "recipe" and None not in (mine, theirs) and mine != theirs


def _told_apart(
    subject: dict[str, Any], known: dict[str, dict[str, Any]], url: str, *, again: bool = False
) -> str:
    """The name of a subject beside those of other runs: its own where nobody else has it.

    Args:
        again: what has its name is another release, though it is described alike.
    """
    name, folder = subject["id"], url.rstrip("/").rsplit("/", 1)[-1]
    mine, theirs = (_asked_for(s) for s in (subject, known.get(name, subject)))
    differs = ", ".join(f"{k} {mine[k]:.4g}" for k in mine if k in theirs and mine[k] != theirs[k])
    names = [name, *([f"{name} ({differs})"] if differs else []), f"{name} ({folder})"]
    free = (
        n
        for n in names
        if n not in known or (_identity(known[n]) == _identity(subject) and not again)
    )
    return next(free, f"{name} ({url})")


def _asked_for(subject: dict[str, Any]) -> dict[str, float]:
    """What sweeps differ in, as far as the card says it."""
    card = subject["card"]
    found = {"IPC": card.get("ipc"), "ε": (card.get("privacy") or {}).get("epsilon")}
    return {k: v for k, v in found.items() if isinstance(v, (int, float))}


def _cell(finding: Finding) -> _Cell:
    return finding.subject, finding.auditor, finding.seed


def _planned(cell: dict[str, Any]) -> _Cell:
    return cell["subject"] or "", cell["auditor"], cell["seed"]


def _renamed(part: Collected, names: dict[str, str]) -> Collected:
    return replace(
        part,
        subjects=[_called(s, names.get(s["id"], s["id"])) for s in part.subjects],
        cells=[_cell_of(c, names.get(c.subject, c.subject)) for c in part.cells],
        keys={(names.get(s, s), a, seed): key for (s, a, seed), key in part.keys.items()},
    )


def _called(subject: dict[str, Any], name: str) -> dict[str, Any]:
    checks = [{**c, "subject": name} for c in subject.get("claim_checks", ())]
    return {**subject, "id": name, "claim_checks": checks}


def _cell_of(cell: Finding, name: str) -> Finding:
    """A cell under another name for its subject, which its checks carry too: else they would say nothing of it."""
    checks = [
        c.model_copy(update={"subject": name}) if c.subject == cell.subject else c
        for c in cell.checks
    ]
    return cell.model_copy(update={"subject": name, "checks": checks})


def _parts(url: str) -> list[tuple[str, Collected]]:
    """Every configuration that was audited into a folder, under a name for it; the last one first.

    Raises:
        BadInput: no run there.
    """
    store = RunStore(url)
    infos = store.read_infos()
    if not infos:
        raise BadInput(
            url, "is no run folder (it has no run.json)", "Give the --out of 'ddaudit audit'."
        )
    names = [url, *(f"{url} (audit of {i.get('started', 'earlier')})" for i in infos[1:])]
    return [(name, _one(store, info)) for name, info in zip(names, infos, strict=True)]


def _one(store: RunStore, info: dict[str, Any]) -> Collected:
    cells: list[Finding] = []
    checks: dict[str, list[Check]] = {}
    keys: dict[_Cell, str] = {}
    missing = []
    for planned in info["cells"]:
        finding = store.cell(planned["key"])
        if finding is None:
            missing.append(planned)
            damaged = store.exists(f"cells/{planned['key']}.json")
            finding = Finding(
                subject=planned["subject"] or "",
                auditor=planned["auditor"],
                status="skipped",
                reason=f"{NOT_RUN}: {'its file is damaged, ' if damaged else ''}run the same audit again",
                seed=planned["seed"],
            )
        if planned["subject"] is None:
            failed = Check(
                name=_RAN,
                passed=False,
                expected="no error",
                detail=finding.reason or "",
            )
            # One that does not apply says why in its subjects' cells, and holds nothing that failed.
            lost = finding.status == "failed" or planned in missing
            checks[planned["auditor"]] = [failed] if lost else finding.checks
        else:
            # A cell is addressed by content: two subjects with one identity share it, so the plan's name counts.
            update = {"subject": planned["subject"], "seed": planned["seed"]}
            cells.append(finding.model_copy(update=update))
            keys[_cell(cells[-1])] = planned["key"]
    info["missing"] = missing
    tested = {c.subject for c in cells for check in c.checks if check.name == ON_CARD}
    subjects = [
        _audited(store, entry, data=info["data"], claim_tested=entry["id"] in tested)
        for entry in info["subjects"]
    ]
    return Collected(info, subjects, list(info["auditors"]), cells, checks, keys)


def _audited(
    store: RunStore, entry: dict[str, Any], *, data: dict[str, Any], claim_tested: bool
) -> dict[str, Any]:
    """A subject with its set (None where it is not kept), its card, and what is wrong with either.

    The card is the run's own copy: a claim does not get lost with the file that carried it.

    Args:
        data: of the run.
        claim_tested: a cell already says what the card alone has against its claim; else whoever audits anything else
            of a set would repeat a false claim.
    """
    value = store.first_set(entry["set_keys"])
    card = entry.get("card")
    if card is None:
        made = (
            value.card
            if value is not None
            else Card(method=entry["id"], notes=entry.get("notes", []))
        )
        card = made.model_dump(mode="json")
    return {
        **entry,
        "set": value,
        "card": card,
        "problem": _problem(entry, value),
        "claim_checks": [] if claim_tested else _claim_checks(entry["id"], card, data, store.url),
        "per_class": None if value is None else _per_class(value),
    }


def _claim_checks(
    subject: str, card: dict[str, Any], data: dict[str, Any], where: str
) -> list[dict[str, Any]]:
    if not card.get("privacy"):
        return []
    try:
        stated = Card.model_validate(card)
    except ValidationError as error:
        raise damaged(error, f"{where}: the card of {subject}") from None
    # A set of other data was made from another number of records.
    records = data.get("train") if stated.data in (None, data.get("name")) else None
    checks = check_claim(stated, subject=subject, records=records)
    return [c.model_dump(mode="json") for c in checks]


def _per_class(value: DistilledSet) -> list[int]:
    """[fewest, most] images of a class."""
    counts = value.hard_labels.bincount(minlength=value.num_classes)
    return [int(counts.min()), int(counts.max())]


def _problem(entry: dict[str, Any], kept: DistilledSet | None) -> str | None:
    """Why what was audited is not what is there now, or None.

    A file is looked for where the command named it (from this working directory), then where it was found when it
    was audited.
    """
    if entry["kind"] == "recipe":
        lost = entry.get("private") and kept is None
        return "its private set is not in the run folder, or is damaged" if lost else None
    if (
        entry["kind"] == "file"
        and kept is not None
        and entry["identity"] not in (None, fingerprint(kept))
    ):
        return "the run folder's copy of its set is not what was audited: its content has changed"
    places = [Path(p) for p in (entry.get("path"), entry.get("found")) if p]
    if not places:
        return None
    file = next((p for p in places if kind_of(p) == "file"), None)
    if file is None:
        return f"the audited file is no longer at {places[0]}"
    if entry.get("digest") not in (None, digest(file)):
        return f"{file} is not the file that was audited: its content has changed"
    return None
