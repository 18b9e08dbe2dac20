"""Measure rmsprop_fast against its peers and against what memory allows.

Contestants take turns in one run, and their results are checked first. "rival/ours" is
the cost of the rival divided by ours, round by round: above 1 we are cheaper.
`estimators` has its own command line, see ``estimators --help``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import baseline, gpu, machine, report
from benchmarks.harness import OURS, Case, Effort, Outcome, make_effort, run
from benchmarks.peers import PEERS, is_installed
from benchmarks.sparse import EQUAL

# Each module answers one question.
MODULES = (
    "overhead",
    "many_tensors",
    "binding",
    "in_cache",
    "threads",
    "subnormal",
    "sparse",
    "checkpoint",
    "embedding",
    "catch_up",
    "options",
    "memory",
    "dense",
    "gpu",
)
BASELINE = Path(__file__).parent / "results" / "baseline.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 if something got worse or was wrong."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["estimators"]:  # curves, not costs: it has its own command line
        return import_module("benchmarks.estimators").main(argv[1:])
    parser = make_parser()
    arguments = parser.parse_args(argv)
    effort = make_effort(arguments.threads, arguments.quick)
    cases = select(arguments.names, effort)
    if not cases:
        parser.error(f"no case is called {' or '.join(arguments.names)}, see --list")
    if arguments.list:
        print(*(case.name for case in cases), sep="\n")
        return 0
    if any(case.name.startswith("gpu/") for case in cases) and (why := gpu.lacks()):
        print(f"gpu: {why}", file=sys.stderr)
        cases = [case for case in cases if not case.name.startswith("gpu/")]
        if not cases:
            return 2

    results = measure(cases, effort, arguments.json)
    if arguments.plots:
        from benchmarks import plots  # matplotlib need not be there for the rest

        print("", *plots.draw(results, arguments.plots), sep="\n")
    got_worse = arguments.check and compare(results, arguments.check)
    wrong = [
        name
        for name, case in results["cases"].items()
        if OURS not in case["contestants"]
    ]
    for name in wrong:
        print(f"{name}: {results['cases'][name]['refused'][OURS]}", file=sys.stderr)
    return int(bool(got_worse or wrong))


def make_parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"a module ({', '.join(MODULES)}) or the beginning of a case's name",
    )
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument(
        "--quick", action="store_true", help="fewer cases and rounds: 3 minutes, not 15"
    )
    parser.add_argument(
        "--threads",
        type=int,
        help="threads of every contestant, at most the CPUs allowed: the default",
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write all figures to this file"
    )
    parser.add_argument(
        "--plots", type=Path, metavar="DIR", help="write PNG files to this folder"
    )
    parser.add_argument(
        "--check",
        type=Path,
        nargs="?",
        const=BASELINE,
        metavar="BASELINE",
        help="print the ratios that are worse than in this JSON file "
        "(default: the committed one)",
    )
    return parser


def select(names: Sequence[str], effort: Effort) -> list[Case]:
    """Return the cases whose names begin so, all if there are no names."""
    cases: list[Case] = []
    for module in MODULES:
        cases += import_module(f"benchmarks.{module}").cases(effort)
    return [case for case in cases if case.name.startswith(tuple(names) or "")]


def measure(
    cases: Sequence[Case], effort: Effort, path: Path | None = None
) -> dict[str, Any]:
    """Run the cases, print tables and verdicts, return what JSON keeps.

    The file at `path` is written after each case: a run cut short keeps its figures.
    """
    described = machine.describe(effort)
    print(machine.headline(described))
    if any(case.name.startswith("gpu/") for case in cases):
        described["gpu"] = gpu.device_name()
        print(described["gpu"])
    if absent := [peer.name for peer in PEERS if not is_installed(peer)]:
        print("not installed:", ", ".join(absent))
    outcomes: list[Outcome] = []
    verdicts: list[report.Verdict] = []
    for outcome in run_all(cases, effort):
        outcomes.append(outcome)
        print("", report.table(outcome), sep="\n", flush=True)
        verdicts = [verdict for one in outcomes for verdict in report.judge(one)]
        verdicts += report.judge_equal(outcomes, EQUAL, "limit", least=0.9)
        if path:
            results = report.as_json(described, outcomes, verdicts)
            path.write_text(json.dumps(results, indent=1) + "\n")
    if verdicts:
        print("", report.verdicts_table(verdicts), sep="\n")
    return report.as_json(described, outcomes, verdicts)


def run_all(cases: Sequence[Case], effort: Effort) -> Iterator[Outcome]:
    """Yield outcomes, and print the progress to stderr."""
    start = time.monotonic()
    for number, case in enumerate(cases, 1):
        minutes, seconds = divmod(int(time.monotonic() - start), 60)
        print(
            f"[{minutes}:{seconds:02} case {number} of {len(cases)}] {case.name}",
            file=sys.stderr,
        )
        yield run(case, effort)


def compare(results: dict[str, Any], path: Path) -> bool:
    """Print what got worse than in the file; return whether anything did."""
    before = json.loads(path.read_text())
    for line in baseline.differences(results, before):
        print(f"compared with another machine or build: {line}")
    lines = sorted(baseline.worse(results, before))
    print(*lines or ["no ratio got worse"], sep="\n")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
