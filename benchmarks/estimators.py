"""The estimators on real data: score against seconds, tuned, over several seeds.

    python -m benchmarks estimators [case[/contestant] ...] [--quick] [--json PATH]

Every contestant of a case gets the same seconds to be tuned in, shared equally among
its settings; the best on the validation part is then trained anew with each seed, until
the time is up or the validation score has not grown for a while. Seconds are those of
training alone. `epochs` asks what an epoch costs on CSR.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from benchmarks import estimators_data, machine
from benchmarks.estimators_data import Problem
from benchmarks.estimators_peers import Contestant, Setting, contestants
from benchmarks.harness import Effort, RefusedError, make_effort
from rmsprop_fast.estimators import RMSpropClassifier

__all__ = ["main"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """A problem, how it is scored, and how long a contestant may take."""

    load: Callable[[int | None], Problem]  # of so many samples at most
    score: Callable[[Array, Array], float]  # of targets and predictions; more is better
    unit: str
    tuning: float  # seconds per contestant
    running: float  # seconds per seed
    seeds: int = 3
    samples: int | None = None  # all


def accuracy(y: Array, predicted: Array) -> float:
    return float((y == predicted).mean())


def minus_rmse(y: Array, predicted: Array) -> float:
    return -float(np.sqrt(((y - predicted) ** 2).mean()))


def minus_rmse_of_stars(y: Array, predicted: Array) -> float:
    return minus_rmse(y, np.clip(predicted, 1, 5))


CASES = {
    "places": Case(estimators_data.places, accuracy, "accuracy", 50, 40),
    "digits": Case(estimators_data.digits, accuracy, "accuracy", 8, 1.5),
    "diabetes": Case(estimators_data.diabetes, minus_rmse, "-RMSE", 4, 0.5),
    "ratings": Case(
        estimators_data.ratings, minus_rmse_of_stars, "-RMSE of stars", 30, 8
    ),
    "mlp": Case(estimators_data.digits, accuracy, "accuracy", 30, 12),
}
PATIENCE = 12  # moments without a better validation score
QUICK = {"tuning": 4.0, "running": 2.0, "seeds": 1, "samples": 4000}


# --- Measuring -----------------------------------------------------------------------


def trace(
    contestant: Contestant,
    setting: Setting,
    seed: int,
    problem: Problem,
    case: Case,
    budget: float,
) -> dict[str, list[float]]:
    """Train for `budget` seconds; return seconds and scores, moment by moment."""
    found: dict[str, list[float]] = {"seconds": [], "validation": [], "test": []}
    for seconds, predict in contestant.moments(setting, seed, problem):
        found["seconds"].append(seconds)
        for name in ("validation", "test"):
            part = getattr(problem, name)
            found[name].append(case.score(part.y, predict(part.X)))
        waited = len(found["seconds"]) - int(np.argmax(found["validation"]))
        if seconds * contestant.growth > budget or waited > PATIENCE:
            break
    return found


def tune(
    contestant: Contestant, problem: Problem, case: Case, budget: float
) -> list[dict[str, Any]]:
    """Return every setting with its best validation score, the best first."""
    share = budget / len(contestant.grid)
    tried = []
    for setting in contestant.grid:
        run = trace(contestant, setting, 1000, problem, case, share)
        tried.append({"setting": setting, "validation": max(run["validation"])})
    return sorted(tried, key=lambda one: -one["validation"])


def measure(
    contestant: Contestant, problem: Problem, case: Case, before: dict[str, Any] | None
) -> dict[str, Any]:
    """Tune and run a contestant; return what JSON keeps.

    What was found `before` is kept to: only the seeds that it lacks are run.
    """
    found: dict[str, Any] = before or {"runs": {}}
    if "tried" not in found:
        found["tried"] = tune(contestant, problem, case, case.tuning)
    setting = found["tried"][0]["setting"]
    for seed in range(case.seeds if contestant.is_random else 1):
        if str(seed) not in found["runs"]:
            run = trace(contestant, setting, seed, problem, case, case.running)
            found["runs"][str(seed)] = run
    return found


def epoch_seconds(
    n_samples: int, per_sample: int, n_features: int, n_present: int, n_threads: int
) -> float:
    """Return the seconds of an epoch on so many samples, the median of five."""
    rng = np.random.default_rng(0)
    stride = n_features // n_present
    columns = rng.integers(n_present, size=(n_samples, per_sample)) * stride
    columns.sort(axis=1)
    starts = np.arange(0, columns.size + 1, per_sample)
    data = rng.random(columns.size, np.float32)
    X = csr_matrix(
        (data, columns.ravel().astype(np.int32), starts.astype(np.int32)),
        shape=(n_samples, n_features),
    )
    y = rng.integers(2, size=n_samples)
    model = RMSpropClassifier(alpha=0, batch_size=256, num_threads=n_threads)
    model.partial_fit(X, y, classes=[0, 1])
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        model.partial_fit(X, y)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def epochs(n_threads: int, quick: bool) -> dict[str, Any]:
    """Return what an epoch costs by non-zeros, and by the width of the table."""
    n = 10_000 if quick else 100_000
    features = [2**power for power in (12, 16, 20, 24)]
    return {
        "non-zeros": [
            [n * k, epoch_seconds(n, k, 2**16, 2**16, n_threads)]
            for k in (10, 20, 40, 80)
        ],
        "features, of which 4096 occur": [
            [width, epoch_seconds(n, 40, width, 2**12, n_threads)] for width in features
        ],
        "features, all of which occur": [
            [width, epoch_seconds(n, 40, width, width, n_threads)] for width in features
        ],
    }


# --- Judging -------------------------------------------------------------------------


def at_best(run: dict[str, list[float]]) -> dict[str, float]:
    """Return the moment of the best validation score."""
    best = int(np.argmax(run["validation"]))
    return {name: values[best] for name, values in run.items()}


def seconds_to(run: dict[str, list[float]], score: float) -> float | None:
    """Return when the validation score was first reached."""
    reached = np.flatnonzero(np.array(run["validation"]) >= score)
    return run["seconds"][reached[0]] if len(reached) else None


def summary(name: str, case: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a case's table."""
    ours = next(iter(case["contestants"].values()))
    yield f"{name}: {case['data']}"
    yield (
        f"  {'':<30}{'test ' + case['unit']:>24}{'s to it':>9}{'s/epoch':>9}"
        f"{'ours s to its best':>20}"
    )
    for label, one in case["contestants"].items():
        if "refused" in one:
            yield f"  {label:<30} {one['refused']}"
            continue
        runs = list(one["runs"].values())
        best = [at_best(run) for run in runs]
        scores = np.array([moment["test"] for moment in best])
        first = np.median([run["seconds"][0] for run in runs])
        line = f"  {label:<30}{f'{scores.mean():.4f} +- {scores.std():.4f}':>24}"
        line += (
            f"{np.median([moment['seconds'] for moment in best]):>9.2f}{first:>9.3f}"
        )
        if one is not ours:
            target = float(np.median([moment["validation"] for moment in best]))
            reached = [seconds_to(run, target) for run in ours["runs"].values()]
            times = [x for x in reached if x is not None]
            never = len(times) <= len(reached) / 2
            line += f"{'never' if never else f'{np.median(times):.2f}':>20}"
        yield line


# --- The command line ----------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks estimators",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("names", nargs="*", help=f"of {', '.join([*CASES, 'epochs'])}; all by default")
    add("--running", type=float, help="seconds per seed, instead of the case's")
    add("--seeds", type=int, help="number of seeds, instead of the case's")
    add("--more", action="store_true", help="keep the file's settings and seeds")
    add("--quick", action="store_true", help="little data, one seed: a minute or two")
    add("--threads", type=int, help="threads of every contestant")
    add("--json", type=Path, metavar="PATH", help="add the figures to this file")
    add("--plots", type=Path, metavar="DIR", help="draw the file's figures into here")
    options = parser.parse_args(argv)
    effort = make_effort(options.threads, options.quick)
    results: dict[str, Any] = {"cases": {}}
    if options.json and options.json.exists():
        results = json.loads(options.json.read_text())
    wanted = [name.partition("/") for name in options.names]
    if unknown := [case for case, _, _ in wanted if case not in (*CASES, "epochs")]:
        parser.error(f"no case is called {' or '.join(unknown)}")

    described = machine.describe(effort)
    print(machine.headline(described))
    results["machine"] = described
    for name in [*CASES, "epochs"]:
        only = [label for case, _, label in wanted if case == name]
        if wanted and not only:
            continue
        if name == "epochs":
            results["epochs"] = epochs(effort.n_threads, effort.quick)
            print(*epochs_lines(results["epochs"]), sep="\n")
        else:
            case = CASES[name]
            if effort.quick:
                case = replace(case, **QUICK)
            chosen = {"running": options.running, "seeds": options.seeds}
            case = replace(case, **{k: v for k, v in chosen.items() if v is not None})
            run_case(name, case, "".join(only), effort, results, options.more)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.plots:
        from benchmarks import estimators_plots

        print(*estimators_plots.draw(results, options.plots), sep="\n")
    return 0


def epochs_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about the cost of an epoch."""
    for what, points in found.items():
        shown = ", ".join(f"{n:,}: {1e3 * s:.0f} ms" for n, s in points)
        yield f"an epoch by {what}: {shown}"


def run_case(
    name: str,
    case: Case,
    only: str,
    effort: Effort,
    results: dict[str, Any],
    more: bool,
) -> None:
    """Measure a case, or one of its contestants; print its table."""
    try:
        problem = case.load(case.samples)
    except (ImportError, RefusedError) as error:
        print(f"{name}: {error}")
        return
    kept = results["cases"].setdefault(name, {"contestants": {}})
    kept |= {"data": problem.words, "unit": case.unit}
    for contestant in contestants(effort.n_threads)[name]:
        if not contestant.name.startswith(only):
            continue
        before = kept["contestants"].get(contestant.name) if more else None
        try:
            found = measure(contestant, problem, case, before)
        except RefusedError as error:
            found = {"refused": str(error)}
        kept["contestants"][contestant.name] = found
    print(*summary(name, kept), sep="\n", flush=True)
