"""Outcomes as text, as verdicts on the targets, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.harness import OURS, Figures, Outcome, Target

__all__ = [
    "Verdict",
    "as_json",
    "judge",
    "judge_equal",
    "number",
    "table",
    "verdicts_table",
]


# --- Text ----------------------------------------------------------------------------


def table(outcome: Outcome) -> str:
    """Return a case's figures, one contestant a line."""
    unit = "kB" if outcome.case.unit == "byte" else f"ns/{outcome.case.unit}"
    rows = [(outcome.case.name, unit, "quartiles", "GB/s", "rival/ours", "quartiles")]
    for name, figures in outcome.figures.items():
        rows.append((f"  {name}", *cells(name, figures, outcome.case.unit)))
    lines = aligned(rows)
    lines += [f"  {name}: {why}" for name, why in outcome.refused.items()]
    return "\n".join(lines)


def cells(name: str, figures: Figures, unit: str) -> Iterator[str]:
    """Yield one contestant's cells."""
    low, median, high = (x * (1e-3 if unit == "byte" else 1e9) for x in figures.cost)
    yield number(median)
    yield f"{number(low)} {number(high)}"
    yield number(figures.rate / 1e9) if figures.rate else ""
    if name == OURS or figures.ratio is None:
        yield from ("", "")
    else:
        low, median, high = figures.ratio
        yield number(median)
        yield f"{number(low)} {number(high)}"


def number(x: float) -> str:
    """Return three digits, or all that stand before the point."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines whose columns are flush: the first to the left, others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


# --- Verdicts ------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Whether a target was reached; None where that cannot be said."""

    case: str
    words: str
    least: float
    ratio: float | None
    reached: bool | None
    note: str = ""


def judge(outcome: Outcome) -> list[Verdict]:
    """Return the verdicts on a case's targets."""
    return [verdict(outcome, target) for target in outcome.case.targets]


def verdict(outcome: Outcome, target: Target) -> Verdict:
    """Return the verdict on one target."""
    said = partial(Verdict, outcome.case.name, target.words, target.ratio)
    figures = outcome.figures
    there = [name for name in target.rivals if name in figures]
    if OURS not in figures or not there:
        missing = target.rivals if OURS in figures else (OURS,)
        why = [outcome.refused.get(name, f"{name} is absent") for name in missing]
        return said(None, None, "; ".join(why))
    best = min(there, key=lambda name: figures[name].cost[1])
    ratio = median_ratio(figures[best])
    notes = [best] if len(target.rivals) > 1 else []
    of_copy = figures[best].of_copy
    if target.least_of_copy is not None and of_copy is not None:
        notes.append(f"{best} moves {of_copy:.2f} of a copy's bytes")
        if of_copy < target.least_of_copy:
            return said(ratio, None, notes[-1])
    return said(ratio, ratio >= target.ratio, ", ".join(notes))


def median_ratio(figures: Figures) -> float:
    assert figures.ratio is not None
    return figures.ratio[1]


def judge_equal(
    outcomes: Sequence[Outcome], names: Sequence[str], rival: str, least: float
) -> list[Verdict]:
    """Return whether cases have the same ratio to a rival, if all of them were run."""
    ratios = [
        median_ratio(outcome.figures[rival])
        for outcome in outcomes
        if outcome.case.name in names and {OURS, rival} <= outcome.figures.keys()
    ]
    if len(ratios) < len(names):
        return []
    equality = min(ratios) / max(ratios)
    case, *others = names
    words = f"equal part of the {rival} in {', '.join(others)}"
    note = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return [Verdict(case, words, least, equality, equality >= least, note)]


def verdicts_table(verdicts: Sequence[Verdict]) -> str:
    """Return all verdicts, one a line."""
    said = {True: "reached", False: "missed", None: "not judged"}
    rows = [
        (
            verdict.case,
            verdict.words,
            number(verdict.least),
            "" if verdict.ratio is None else number(verdict.ratio),
            said[verdict.reached],
            verdict.note,
        )
        for verdict in verdicts
    ]
    head = ("case", "target", "at least", "rival/ours", "", "")
    return "\n".join(aligned([head, *rows]))


# --- JSON ----------------------------------------------------------------------------


def as_json(
    machine: dict[str, Any], outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """Return everything; costs in seconds or bytes per unit, [low, median, high]."""
    return {
        "machine": machine,
        "cases": {
            outcome.case.name: {
                "unit": outcome.case.unit,
                "contestants": {
                    name: {k: v for k, v in vars(figures).items() if v is not None}
                    for name, figures in outcome.figures.items()
                },
                "refused": outcome.refused,
            }
            for outcome in outcomes
        },
        "targets": [vars(verdict) for verdict in verdicts],
    }
