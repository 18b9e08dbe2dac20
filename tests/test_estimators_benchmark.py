"""The estimators' benchmark measures what it says; no time is asserted here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="the checkout's benchmarks are not here")

from benchmarks import __main__ as cli
from benchmarks import estimators, estimators_data
from benchmarks.estimators_peers import Contestant, Moment, Setting


class Scripted(Contestant):
    """Predicts ever more ones, up to a limit that is its setting's."""

    def moments(
        self, setting: Setting, seed: int, problem: estimators_data.Problem
    ) -> Iterator[Moment]:
        for n in count(1):
            right = min(n, setting["limit"])
            yield float(n), lambda X, right=right: np.arange(len(X)) < right


def problem_of_ones() -> estimators_data.Problem:
    part = estimators_data.Part(np.zeros((10, 1)), np.ones(10))
    return estimators_data.Problem(part, part, part, "ones")


CASE = estimators.Case(lambda n: problem_of_ones(), estimators.accuracy, "", 40, 100)


def test_a_run_ends_when_its_time_is_up_or_nothing_improves() -> None:
    script = Scripted("script", [{"limit": 8}])
    run = estimators.trace(script, {"limit": 8}, 0, problem_of_ones(), CASE, 5.5)
    assert run["seconds"] == [1, 2, 3, 4, 5, 6]
    assert run["test"] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    run = estimators.trace(script, {"limit": 8}, 0, problem_of_ones(), CASE, 1e9)
    # The best is at 8, index 7; PATIENCE moments later waiting ends.
    assert len(run["seconds"]) == 8 + estimators.PATIENCE
    assert estimators.at_best(run)["seconds"] == 8
    assert estimators.seconds_to(run, 0.75) == 8
    assert estimators.seconds_to(run, 0.9) is None


def test_the_best_setting_within_an_equal_share_of_time_is_run() -> None:
    script = Scripted("script", [{"limit": 1}, {"limit": 9}, {"limit": 3}])
    found = estimators.measure(script, problem_of_ones(), CASE, None)
    assert [one["setting"]["limit"] for one in found["tried"]] == [9, 3, 1]
    assert list(found["runs"]) == ["0", "1", "2"]
    assert max(found["runs"]["2"]["test"]) == 0.9
    found["runs"]["1"] = "kept"
    again = estimators.measure(script, problem_of_ones(), CASE, found)
    assert again["runs"]["1"] == "kept"


def test_a_case_runs_from_the_command_line_to_json_and_plot(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quick = {"tuning": 0.05, "running": 0.05, "seeds": 1, "samples": 100}
    monkeypatch.setattr(estimators, "QUICK", quick)
    path = tmp_path / "results.json"
    arguments = ["--quick", "--json", str(path), "--plots", str(tmp_path)]
    assert cli.main(["estimators", "diabetes/RMSprop", *arguments]) == 0
    assert cli.main(["estimators", "diabetes/Ridge", *arguments]) == 0
    case: dict[str, Any] = json.loads(path.read_text())["cases"]["diabetes"]
    assert list(case["contestants"]) == ["RMSpropRegressor", "Ridge"]
    for one in case["contestants"].values():
        (run,) = one["runs"].values()
        assert len(run["seconds"]) == len(run["validation"]) == len(run["test"]) > 0
        assert max(run["test"]) > -80, "predicting the mean is off by 77"
    assert (tmp_path / "estimators_diabetes.png").stat().st_size > 0
    shown = capsys.readouterr().out
    assert "442 patients" in shown
    assert "Ridge" in shown
    with pytest.raises(SystemExit):
        cli.main(["estimators", "no_such_case"])


@pytest.mark.parametrize("load", [estimators_data.places, estimators_data.ratings])
def test_parts_of_a_problem_share_no_sample(load: Any) -> None:
    try:
        problem = load(500)
    except estimators.RefusedError as error:
        pytest.skip(str(error))
    parts = problem.train, problem.validation, problem.test
    assert [len(part.y) for part in parts] == [400, 50, 50]
    assert all(part.X.shape == (len(part.y), parts[0].X.shape[1]) for part in parts)
    assert all(part.X.indices.dtype == np.int32 for part in parts)


def test_an_epoch_takes_time() -> None:
    assert estimators.epoch_seconds(300, 5, 2**12, 2**10, 1) > 0
