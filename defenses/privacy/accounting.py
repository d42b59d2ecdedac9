"""What a ledger of noisy queries costs: epsilon by three accountants, calibration, cross-checks.

Every entry of a ledger is ``count`` Gaussian sums with noise multiplier ``sigma`` (noise std over
sensitivity), each on an independent Poisson sample of rate ``q``. By default privacy-loss distributions are composed
(PLD, dp-accounting), and RDP (Opacus) stands in where PLD's grid cannot hold the ledger or resolve delta; PRV (Opacus)
is independent code and serves as a cross-check.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from scipy.optimize import brentq

from ddaudit.defenses.privacy.accountants import (
    Accountant,
    OutOfRange,
    Relation,
    Steps,
    epsilon_by,
    rough,
)
from ddaudit.errors import BadInput
from ddaudit.sets import LedgerEntry, PrivacyClaim
from ddaudit.stats.gdp import check_delta_range, mu_from_epsilon

ACCOUNTANTS: tuple[Accountant, ...] = ("pld", "prv", "rdp")
RELATIONS: tuple[Relation, ...] = ("add-or-remove-one", "replace-one")

_LARGEST_LOG_SIGMA = 25.0

ADDED = "basic composition"
"""The accountant of a claim that adds the (epsilon, delta) of parts fixed beforehand: the noise of a later part was
chosen from the answers of an earlier one, and then what its ledger composes to is no bound."""

MOST_KINDS = 64
"""Kinds of queries (sigma, q) in one ledger; each costs every accountant a composition of its own."""


def epsilon(
    ledger: Sequence[LedgerEntry],
    delta: float,
    *,
    accountant: Accountant | None = None,
    relation: Relation = "add-or-remove-one",
) -> float:
    """Upper bound on epsilon of all the ledger's queries together.

    Args:
        ledger: the queries; they compose. Queries on disjoint parts of the data (one per class) are
            one entry with the largest rate among the parts: parallel composition under add/remove.
        delta: in (0, 1); the honest choice is below 1 / n, see :func:`check_delta`.
        accountant: ``pld`` is tight; ``prv`` is independent and nearly as tight; ``rdp`` gives
            values that are 7 to 10 % larger. None takes :func:`best_accountant`.
        relation: neighbouring relation; ``replace-one`` costs about double and needs ``pld``.

    Returns:
        epsilon >= 0; 0 for an empty ledger, infinity when an entry has no noise.

    Raises:
        BadInput: a value out of range, an accountant that does not know the relation or cannot hold the ledger.

    Source: Koskela, Jalko & Honkela, AISTATS 2020, and Doroshenko et al., PoPETs 2022 (PLD); Gopi,
        Lee & Wutschitz, NeurIPS 2021 (PRV); Mironov, Talwar & Zhang, arXiv 1908.10530 (RDP).
    """
    check_delta_range(delta)
    _check_names(accountant, relation)
    try:
        return _cost(_steps(ledger), float(delta), accountant, relation)
    except OutOfRange as error:
        todo = "" if relation == "replace-one" else "Leave the accountant out, or take 'rdp'."
        raise BadInput("ledger", str(error), todo) from None


def best_accountant(ledger: Sequence[LedgerEntry], delta: float) -> Accountant:
    """The accountant that :func:`epsilon` goes by where none is named: ``pld`` in its range, else ``rdp``."""
    try:
        epsilon_by(_steps(ledger), float(delta), "pld", "add-or-remove-one")
    except OutOfRange:
        return "rdp"
    return "pld"


def calibrate(
    *,
    epsilon: float,
    delta: float,
    q: float,
    count: int,
    accountant: Accountant | None = None,
    relation: Relation = "add-or-remove-one",
    spent: Sequence[LedgerEntry] = (),
) -> float:
    """The smallest noise multiplier for which ``count`` queries stay within (epsilon, delta).

    The answer is within 1e-4 (relative) of the exact root and always on the safe side of it: the
    epsilon of the returned sigma, by the same accountant, never exceeds the target.

    Args:
        epsilon: target, > 0.
        delta: in (0, 1).
        q: Poisson sampling rate in (0, 1].
        count: number of queries, >= 1.
        accountant: whose epsilon is meant; None as in :func:`epsilon`.
        relation: neighbouring relation.
        spent: queries that the same budget has already paid for.

    Returns:
        sigma > 0 (noise std divided by sensitivity).

    Raises:
        BadInput: a value out of range.
    """
    check_delta_range(delta)
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise BadInput("epsilon", f"must be a positive number, got {epsilon}")
    if not 0 < q <= 1:
        raise BadInput("q", f"sampling rate must lie in (0, 1], got {q}")
    if count < 1 or int(count) != count:
        raise BadInput("count", f"must be a whole number >= 1, got {count}")
    _check_names(accountant, relation)
    try:
        return _calibrate(
            float(epsilon), float(delta), float(q), int(count), accountant, relation, _steps(spent)
        )
    except OutOfRange as error:
        raise BadInput(f"delta {delta:g}", str(error), "Take a larger delta.") from None


def calibrate_tight(
    *, epsilon: float, delta: float, q: float, count: int, spent: Sequence[LedgerEntry] = ()
) -> float:
    """The smallest noise multiplier that both tight accountants, PLD and PRV, accept for (epsilon, delta); PLD alone
    where PRV's own error is no small part of epsilon.

    PRV's upper bound is a little larger than PLD's (it adds its own error bound), so a claim that a reader
    checks with either one holds. Arguments and errors as in :func:`calibrate`.
    """
    safe = sigma = calibrate(epsilon=epsilon, delta=delta, q=q, count=count, spent=spent)
    goal, before = epsilon, _steps(spent)
    for _ in range(8):
        try:
            found = _epsilon((*before, (sigma, q, count)), delta, "prv", "add-or-remove-one")
        except (RuntimeError, ValueError):  # out of PRV's numerical range: PLD alone decides
            return sigma
        if not math.isfinite(found) or found <= epsilon:
            return sigma
        # The two differ by an almost constant amount, so a step of that size lands within the target.
        goal = goal - 1.05 * (found - epsilon)
        if goal < 0.9 * epsilon:  # no accountant of that width is tight: PLD alone decides
            return safe
        sigma = calibrate(epsilon=goal, delta=delta, q=q, count=count, spent=spent)
    return sigma


def all_accountants(ledger: Sequence[LedgerEntry], delta: float) -> dict[str, float]:
    """epsilon by every accountant and relation: ``pld``, ``prv``, ``rdp``, ``pld replace-one``.

    An accountant that cannot hold this ledger, resolve this delta, or fails numerically on it is left out.
    """
    check_delta_range(delta)
    return dict(_by_all(_steps(ledger), float(delta)))


def cross_check(
    claim_epsilon: float,
    ledger: Sequence[LedgerEntry],
    delta: float,
    *,
    relation: str = "add-or-remove-one",
    tolerance: float = 0.01,
) -> dict[str, float]:
    """Refuse a claim that its own ledger does not support.

    Args:
        claim_epsilon: the epsilon somebody states.
        ledger: the queries that were made.
        delta: the delta of the claim.
        relation: the neighbouring relation of the claim.
        tolerance: relative slack for the accountants' numerical error.

    Returns:
        :func:`all_accountants` of the ledger.

    Raises:
        BadInput: the ledger needs more than ``claim_epsilon * (1 + tolerance)``, see :func:`deciding`.
    """
    found = all_accountants(ledger, delta)
    claimed = f"claimed epsilon {claim_epsilon:.4g}"
    costs = deciding(found, relation)
    if not costs:
        raise BadInput(
            claimed, f"no accountant of '{relation}' holds its ledger at delta {delta:g}"
        )
    worst = max((e, n) for n, e in costs.items())
    if not worst[0] <= claim_epsilon * (1 + tolerance):
        raise BadInput(
            claimed,
            f"the ledger costs {worst[0]:.4g} at delta {delta:g} by the {worst[1]} accountant",
            "Raise the noise or state the larger epsilon.",
        )
    return found


def deciding(found: Mapping[str, float], relation: str) -> dict[str, float]:
    """Of the results of :func:`all_accountants`, those that a claim has to stand up to.

    The tight accountants of its relation. Where none holds the ledger (a delta below what grids resolve, say), RDP
    where it knows the relation: an upper bound, so it refutes nothing, and yet a claim below it has no proof. Empty:
    nothing supports a claim.
    """
    tight = ("pld", "prv") if relation == "add-or-remove-one" else (f"pld {relation}",)
    kept = {n: found[n] for n in tight if n in found}
    if not kept and relation == "add-or-remove-one" and "rdp" in found:
        return {"rdp": found["rdp"]}
    return kept


def compose(claims: Sequence[PrivacyClaim], delta: float | None = None) -> float:
    """What publishing all sets that carry these claims costs together.

    Sets of one release were made from the same noisy answers and count once; different releases compose: by their
    ledgers, or, where a claim was added up from parts (see ``ADDED``), by adding epsilons and deltas.

    Args:
        claims: one per set, about one and the same private data set, add-or-remove-one.
        delta: of the joint statement; default: :func:`joint_delta`.

    Returns:
        epsilon by PLD; infinity where a claim has no ledger to re-derive it from, sampling that no accountant here
        covers, noise from a published seed (two mechanisms on the same noise subtract to the exact sums), or ``delta``
        is below what the claims add up to.

    Raises:
        BadInput: claims under another neighbouring relation.
    """
    kept = _releases(claims)
    if any(c.noise_seed_published or not c.ledger or not covered(c) for c in kept):
        return math.inf
    added, others = _parted(kept)
    fixed = [entry for c in others for entry in c.ledger]
    rest = (_together(added, others) if delta is None else delta) - math.fsum(
        c.delta for c in added
    )
    spent = math.fsum(c.epsilon for c in added)
    if not fixed:
        return spent if rest >= -1e-15 else math.inf
    return spent + epsilon(fixed, rest) if rest > 0 else math.inf


def joint_delta(claims: Sequence[PrivacyClaim]) -> float:
    """The delta at which :func:`compose` states what several claims cost together: the largest, or where claims were
    added up from parts, theirs added to the largest of the others."""
    return _together(*_parted(_releases(claims)))


def _together(added: Sequence[PrivacyClaim], others: Sequence[PrivacyClaim]) -> float:
    return math.fsum(c.delta for c in added) + max((c.delta for c in others), default=0.0) or 1e-5


def _parted(claims: Sequence[PrivacyClaim]) -> tuple[list[PrivacyClaim], list[PrivacyClaim]]:
    """Claims that are added, and those that their ledgers compose; an accountant is asked once for each."""
    added: list[PrivacyClaim] = []
    others: list[PrivacyClaim] = []
    for claim in claims:
        (added if _is_added(claim) else others).append(claim)
    return added, others


def covered(claim: PrivacyClaim) -> bool:
    """Whether the accountants' formulas are about how this claim's records were sampled: by independent coins, or
    all of them. Shuffled or fixed-size batches are not."""
    sampling = claim.sampling.lower()
    whole = sampling.startswith("full batch") and all(e.q == 1 for e in claim.ledger)
    return whole or sampling.startswith("poisson")


_ROUNDED = 1.1
"""A claim so many times what its ledger costs may be the same number rounded up; a larger one is another number."""


def _is_added(claim: PrivacyClaim) -> bool:
    """Whether a claim composes by its epsilon alone: it was added up from parts, or states more than its ledger
    costs, which then lists only some of what was spent."""
    if claim.accountant == ADDED:
        return True
    by: Accountant = next((a for a in ACCOUNTANTS if a == claim.accountant), "pld")
    try:
        derived = epsilon(claim.ledger, claim.delta, accountant=by)
    except (BadInput, RuntimeError, ValueError):
        return True
    return claim.epsilon > _ROUNDED * derived


def _releases(claims: Sequence[PrivacyClaim]) -> list[PrivacyClaim]:
    """One claim for each release: of one release, the set that was made last saw the most answers."""
    fullest: dict[str, PrivacyClaim] = {}
    for i, claim in enumerate(claims):
        if claim.relation != "add-or-remove-one":
            raise BadInput(f"claim under {claim.relation}", "cannot be composed with the others")
        key = claim.release or f"unnamed {i}"
        kept = fullest.get(key)
        if kept is None or claim.epsilon > kept.epsilon:
            fullest[key] = claim
    return list(fullest.values())


def check_delta(delta: float, n: int) -> None:
    """Refuse a delta that a mechanism could meet by publishing a random record.

    The message does not say n, which is no secret of ours to tell: a recipe may pay for noisy counts.

    Raises:
        BadInput: delta is outside (0, 1) or not below 1 / n for n private records.
    """
    check_delta_range(delta)
    if n < 1:
        raise BadInput("n", f"a private set needs at least one record, got {n}")
    if not delta < 1 / n:
        raise BadInput(
            f"delta {delta:g}",
            "must be below 1 / n, n being the number of private records",
            f"Usual is 1e-5, of more than 100 000 records less than 1 / n: try {min(delta / 10, 1e-6):.1g}.",
        )


# ---- helpers -------------------------------------------------------------------------------------


def _check_names(accountant: Accountant | None, relation: Relation) -> None:
    if accountant is not None and accountant not in ACCOUNTANTS:
        raise BadInput(accountant, "unknown accountant", f"Known: {', '.join(ACCOUNTANTS)}.")
    if relation not in RELATIONS:
        raise BadInput(relation, "unknown neighbouring relation", f"Known: {', '.join(RELATIONS)}.")
    if relation == "replace-one" and accountant not in (None, "pld"):
        raise BadInput(str(accountant), "does not know replace-one", "Use the 'pld' accountant.")


def _steps(ledger: Sequence[LedgerEntry]) -> Steps:
    """(sigma, q, count) of the entries that cost something, equal queries merged."""
    merged: dict[tuple[float, float], int] = {}
    for entry in ledger:
        where = f"ledger entry '{entry.query}'"
        if not (entry.sigma >= 0 and math.isfinite(entry.sigma)):
            raise BadInput(where, f"sigma must be >= 0, got {entry.sigma}")
        if not 0 <= entry.q <= 1:
            raise BadInput(where, f"q must lie in [0, 1], got {entry.q}")
        if entry.count < 0:
            raise BadInput(where, f"count must be >= 0, got {entry.count}")
        if entry.count and entry.q:
            key = (float(entry.sigma), float(entry.q))
            merged[key] = merged.get(key, 0) + entry.count
    if len(merged) > MOST_KINDS:
        raise BadInput(
            f"ledger of {len(merged)} different queries",
            f"is more than the {MOST_KINDS} kinds (sigma, q) that are composed",
            "Merge them: a smaller sigma and a larger q stand for others, on the safe side.",
        )
    return tuple(sorted((sigma, q, count) for (sigma, q), count in merged.items()))


@lru_cache(maxsize=256)
def _by_all(steps: Steps, delta: float) -> tuple[tuple[str, float], ...]:
    """Kept as a whole: that an accountant cannot hold a ledger may take as long to find out as an answer."""
    found: dict[str, float] = {}
    for name, accountant, relation in (
        *((a, a, RELATIONS[0]) for a in ACCOUNTANTS),
        ("pld replace-one", "pld", "replace-one"),
    ):
        try:
            found[name] = _cost(steps, delta, accountant, relation)
        except (BadInput, RuntimeError, ValueError):
            continue
    if steps and math.isfinite(found.get("pld", math.inf)):
        found = {name: value for name, value in found.items() if math.isfinite(value)}
    return tuple(found.items())


def _cost(steps: Steps, delta: float, accountant: Accountant | None, relation: Relation) -> float:
    """:func:`_epsilon` of any steps: none cost nothing, and one without noise costs everything."""
    if not steps:
        return 0.0
    if any(sigma == 0 for sigma, _, _ in steps):
        return math.inf
    return _epsilon(steps, delta, accountant, relation)


def _epsilon(
    steps: Steps, delta: float, accountant: Accountant | None, relation: Relation
) -> float:
    """By the accountant that is named, else by PLD where it holds the ledger, else by RDP."""
    try:
        return epsilon_by(steps, delta, accountant or "pld", relation)
    except OutOfRange:
        if accountant is not None or relation == "replace-one":
            raise
        return epsilon_by(steps, delta, "rdp", relation)


@lru_cache(maxsize=1024)
def _calibrate(
    target: float,
    delta: float,
    q: float,
    count: int,
    accountant: Accountant | None,
    relation: Relation,
    spent: Steps = (),
) -> float:
    if spent and _epsilon(spent, delta, accountant, relation) >= target:
        raise BadInput(f"epsilon {target:g}", "is already spent by earlier queries")

    def excess(log_sigma: float) -> float:
        steps = (*spent, (math.exp(log_sigma), q, count))
        found = _epsilon(steps, delta, accountant, relation)
        return min(50.0, math.log(max(found, 1e-12) / target))

    def nearly(log_sigma: float) -> float:
        found = rough((*spent, (math.exp(log_sigma), q, count)), delta)
        return min(50.0, math.log(max(found, 1e-12) / target))

    def bracket(f: Callable[[float], float], start: float, width: float) -> tuple[float, float]:
        low = high = start
        while f(high) > 0:
            if high > _LARGEST_LOG_SIGMA:
                what = f"is too small for the {accountant or 'pld'} accountant to certify at delta {delta:g}"
                raise BadInput(f"epsilon {target:g}", what)
            low, high = high, high + width
            width *= 1.5
        while f(low) <= 0:
            low, high = low - width, low
            width *= 1.5
        return low, high

    # The central limit gives a first guess, a rough RDP bound a close one in milliseconds.
    start = math.log(q * math.sqrt(count) / mu_from_epsilon(target, delta))
    if target > 0.1:  # below, the largest Renyi order limits it
        start = float(brentq(nearly, *bracket(nearly, start, 0.7), xtol=1e-2)) - 0.05
    root = float(brentq(excess, *bracket(excess, start, 0.06), xtol=2e-5, rtol=1e-9))
    while excess(root) > 0:
        root += 2e-5
    return math.exp(root)
