"""The benchmarks measure what they say: no time is asserted here, no peer required."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="the checkout's benchmarks are not here")

from benchmarks import __main__ as cli
from benchmarks import (
    baseline,
    binding,
    catch_up,
    checkpoint,
    dense,
    limits,
    memory,
    native,
    options,
    peers,
    problems,
    report,
)
from benchmarks import shapes as real_shapes
from benchmarks.embedding import Outer
from benchmarks.harness import (
    OURS,
    Case,
    Contestant,
    Effort,
    Entry,
    RefusedError,
    Target,
    run,
)
from benchmarks.sparse_peers import NumPyRows, OursRows

EFFORT = Effort(n_threads=1, rounds=3, fewest_rounds=3, block=1e-4, budget=0.1)

needs_c = pytest.mark.skipif(
    shutil.which("cc") is None, reason="the limits are compiled by cc"
)
needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="memory is asked of /proc"
)


def make_case(**contestants: Callable[[], Contestant]) -> Case:
    def entries() -> Iterator[Entry]:
        yield from contestants.items()

    return Case("made/up", "call", entries, (Target(("rival",), 2, "half of rival"),))


def constant(cost: float, **more: Any) -> Contestant:
    return Contestant(lambda: None, cost=lambda: cost, **more)


# --- The command line ----------------------------------------------------------------


def test_list_names_cases_of_every_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--list"]) == 0
    names = capsys.readouterr().out.split()
    assert len(names) == len(set(names)), "names are the baseline's keys"
    assert {name.partition("/")[0] for name in names} == {
        path.stem
        for path in Path(cli.__file__).parent.glob("*.py")
        if "def cases(" in path.read_text()
    }


def test_unknown_name_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["no_such_module"])
    assert "no_such_module" in capsys.readouterr().err


@needs_c
def test_a_case_runs_from_the_command_line_to_json_and_plot(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(dense, "PEERS", [peers.NumPy])
    path = tmp_path / "results.json"
    name = "dense/plain/float32/1e3"
    arguments = ["--quick", name, "--json", str(path), "--plots", str(tmp_path)]
    assert cli.main(arguments) == 0
    results = json.loads(path.read_text())
    assert list(results["cases"]) == [name]
    assert list(results["cases"][name]["contestants"]) == [
        *(OURS, "limit", "copy", "NumPy")
    ]
    assert results["machine"]["isa"] in ("baseline", "avx2", "avx512")
    assert (tmp_path / "dense.png").stat().st_size > 0
    assert name in capsys.readouterr().out
    assert cli.compare(results, path) is False, "the same figures are no worse"


def test_check_flags_a_worse_ratio_and_another_machine() -> None:
    def results(ratio: float, isa: str) -> dict[str, Any]:
        figures = {"cost": [1, 1, 1], "ratio": [0.9 * ratio, ratio, 1.1 * ratio]}
        contestants = {OURS: {"cost": [1, 1, 1]}, "rival": figures}
        machine = dict.fromkeys(baseline.MATTERS, "same") | {"isa": isa}
        return {"machine": machine, "cases": {"a": {"contestants": contestants}}}

    before, after = results(2.0, "avx512"), results(1.0, "avx2")
    assert list(baseline.worse(after, before)) == ["a: rival/ours was 2, is 1"]
    assert list(baseline.worse(before, after)) == []
    assert list(baseline.differences(after, before)) == ["isa was avx512, is avx2"]


# --- The harness ---------------------------------------------------------------------


def test_a_wrong_contestant_is_refused_and_not_timed() -> None:
    problem = problems.Dense([(1000,)])

    class Wrong(peers.NumPy):
        name = "wrong"
        eps_in_sqrt = False  # it is inside

    class Broken(peers.NumPy):
        def __init__(self, problem: problems.Dense) -> None:
            raise OSError("no such library")

    outcome = run(
        make_case(
            rmsprop_fast=lambda: peers.enter(peers.Ours(problem), problem, 1),
            rival=lambda: peers.enter(Wrong(problem), problem, 1),
            broken=lambda: peers.enter(Broken(problem), problem, 1),
        ),
        EFFORT,
    )
    assert list(outcome.figures) == [OURS]
    assert outcome.refused["rival"].startswith("wrong result, not timed: off by")
    assert outcome.refused["broken"] == "OSError('no such library')"
    assert outcome.refused["rival"] in report.table(outcome)
    (verdict,) = report.judge(outcome)
    assert verdict.reached is None
    assert verdict.note == outcome.refused["rival"]


@pytest.mark.parametrize(("rival", "reached"), [(1.9, False), (2.1, True)])
def test_a_target_compares_costs_per_unit(rival: float, reached: bool) -> None:
    case = make_case(
        rmsprop_fast=partial(constant, 10.0, units=10),  # 1 per unit
        rival=partial(constant, rival),
    )
    (verdict,) = report.judge(run(case, EFFORT))
    assert verdict.ratio == pytest.approx(rival)
    assert verdict.reached is reached


def test_a_limit_slower_than_a_copy_is_not_judged() -> None:
    case = Case(
        "made/up",
        "call",
        lambda: iter(
            [
                (OURS, partial(constant, 1.0, n_bytes=100)),
                ("limit", partial(constant, 1.0, n_bytes=80)),
                ("copy", partial(constant, 1.0, n_bytes=100)),
            ]
        ),
        (Target(("limit",), 0.95, "at the limit", least_of_copy=0.9),),
    )
    (verdict,) = report.judge(run(case, EFFORT))
    assert verdict.reached is None
    assert verdict.note == "limit moves 0.80 of a copy's bytes"


# --- What is measured ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n_tensors", "n_elements"),
    [
        ("mlp", 6, 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10),
        # torchvision's resnet50 and transformers' gpt2 count as many parameters.
        ("resnet50", 161, 25_557_032),
        ("gpt2-small", 148, 124_439_808),
    ],
)
def test_models_have_their_known_number_of_parameters(
    name: str, n_tensors: int, n_elements: int
) -> None:
    shapes = real_shapes.MODELS[name]()
    assert len(shapes) == n_tensors
    assert real_shapes.size(shapes) == n_elements


def test_zipf_draws_the_kth_most_frequent_row_in_proportion_to_1_over_k() -> None:
    n_rows, n = 1000, 200_000
    rows = problems.zipf(np.random.default_rng(1), n_rows, (2, n // 2))
    assert rows.shape == (2, n // 2)
    assert 0 <= rows.min() <= rows.max() < n_rows
    counts = np.sort(np.bincount(rows.ravel(), minlength=n_rows))[::-1]
    chances = 1 / np.arange(1, 11)
    chances /= (1 / np.arange(1, n_rows + 1)).sum()
    # The tenth has 2,700 draws: 4 standard deviations are 4 / sqrt(2700) = 8 %.
    np.testing.assert_allclose(counts[:10] / n, chances, rtol=0.08)
    again = problems.zipf(np.random.default_rng(1), n_rows, (2, n // 2))
    np.testing.assert_array_equal(rows, again)


@pytest.mark.parametrize("peer", [peers.Ours, peers.NumPy], ids=lambda peer: peer.name)
@pytest.mark.parametrize("variant", problems.VARIANTS, ids=lambda v: v.name)
def test_dense_contestants_pass_the_check_once(
    peer: type[peers.Peer], variant: problems.Variant, dtype: type
) -> None:
    problem = problems.Dense([(70, 1000), (3,)], np.dtype(dtype).name, variant)
    contestant = peers.enter(peer(problem), problem, 1)
    assert contestant.check() is None
    assert contestant.check() is not None, "two steps more make another result"


@pytest.mark.parametrize("way", ["fused", "then_apply_gradients", "then_kernels"])
def test_fused_contestants_pass_the_check_once(way: str) -> None:
    contestant = getattr(Outer(70, n_threads=2), way)()
    assert contestant.check() is None
    assert contestant.check() is not None, "two steps more make another result"


@pytest.mark.parametrize("peer", [OursRows, NumPyRows], ids=lambda peer: peer.name)
@pytest.mark.parametrize("distribution", ["uniform", "zipf"])
def test_sparse_contestants_pass_the_check_once(
    peer: type[peers.Peer], distribution: str
) -> None:
    problem = problems.Sparse(2000, 8, 500, distribution)
    built = peer(problem)
    contestant = peers.enter(built, problem, 1)
    assert contestant.check() is None
    assert contestant.check() is not None, "two steps more make another result"


@pytest.mark.parametrize("entries", [checkpoint.savers, checkpoint.loaders])
def test_checkpoint_contestants_bring_the_state_back(
    entries: Callable[[list[tuple[int, ...]]], Iterator[Entry]],
) -> None:
    built = {name: build() for name, build in entries([(64,), (3, 2)])}
    assert OURS in built
    assert {name: one.check() for name, one in built.items()} == dict.fromkeys(built)


def test_rows_that_catch_up_pass_the_check_that_lazy_ones_do_not() -> None:
    # Without momentum two steps from zero move rows alike.
    variant = problems.Variant("made up", momentum=0.9, catch_up=True)
    problem = problems.Sparse(2000, 8, 500, variant=variant)
    assert peers.enter(catch_up.CaughtUp(problem), problem, 1).check() is None
    lazy = problems.Sparse(2000, 8, 500, variant=replace(variant, catch_up=False))
    assert peers.enter(OursRows(lazy), lazy, 1).check() is None
    assert peers.enter(OursRows(lazy), problem, 1).check() is not None


@pytest.mark.parametrize("option", options.OPTIONS)
def test_options_pass_the_check(option: str) -> None:
    contestants = options.contestants(option, 5000, EFFORT)
    assert [build().check() for _, build in contestants] == [None, None]


@pytest.mark.parametrize("way", binding.WAYS)
def test_binding_contestants_pass_the_check(way: str) -> None:
    built = {name: make() for name, make in binding.contestants(way, 1000)}
    assert list(built) == [OURS, "500 variables"]
    for contestant in built.values():
        assert contestant.check() is None
        assert contestant.cost is not None
        assert contestant.cost() > 0


def test_a_wrong_binding_is_found() -> None:
    def twice(pairs: binding.Pairs) -> Any:
        return binding.first_step([*pairs, pairs[0]])

    assert binding.Bound(twice, 500, 1).check() == "another result"


def test_a_binding_that_would_take_too_long_is_refused_before_it_is_tried() -> None:
    tried: list[int] = []

    def quadratic(pairs: binding.Pairs) -> Any:
        tried.append(len(pairs))
        time.sleep(1e-10 * len(pairs) ** 2)

    # 1e-4 s for 1,000, 0.01 s for 10,000, so 1 s for 100,000.
    message = "10,000 variables took .* so 100,000 would take more than 0.1 s"
    with pytest.raises(RefusedError, match=message):
        binding.Bound(quadratic, 10**5, 1, longest=0.1)
    assert tried == [1000, 10_000]


def test_a_changed_row_outside_the_batch_is_found() -> None:
    problem = problems.Sparse(2000, 8, 500)
    peer = OursRows(problem)
    outside = np.setdiff1d(np.arange(2000), problem.batches[:2])
    peer.table[outside[0], 0] = 1e-30
    wrong = peers.enter(peer, problem, 1).check()
    assert wrong == "rows changed that are not in the batch"


# --- The limits ----------------------------------------------------------------------


@needs_c
@pytest.mark.parametrize("n_slots", [1, 2, 3])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_dense_limit_reads_and_writes_every_element_it_claims(
    dtype: type, n_slots: int, n_threads: int
) -> None:
    n = limits.WORK + 3  # above it, a call does the work once
    param, *slots = arrays = [np.full(n, k, dtype) for k in range(1 + n_slots)]
    grad = np.arange(n).astype(dtype) % 7
    limit = limits.dense(param, grad, slots, n_threads, c=2.0)
    limit.step()
    for k, array in enumerate(arrays):
        np.testing.assert_array_equal(array, k + 2 * grad)
    assert limit.units == n
    assert limit.n_bytes == grad.nbytes + 2 * sum(array.nbytes for array in arrays)


@needs_c
def test_copy_copies(dtype: type) -> None:
    source = np.arange(limits.WORK, dtype=dtype)
    target = np.zeros_like(source)
    copy = limits.copy(target, source, 2)
    copy.step()
    np.testing.assert_array_equal(target, source)
    assert copy.n_bytes == 2 * source.nbytes


@needs_c
def test_row_limit_updates_each_distinct_row_once() -> None:
    problem = problems.Sparse(300, 5, 200, n_threads=2)
    table, rms = problem.zeros(), problem.zeros()
    limits.rows(problem, table, rms, c=2.0).step()
    rows, first = np.unique(problem.batches[0], return_index=True)
    expected = problem.zeros()
    expected[rows] = 2 * problem.values[first]
    np.testing.assert_array_equal(table, expected)
    np.testing.assert_array_equal(rms, expected)


@needs_c
@pytest.mark.parametrize("variant", problems.VARIANTS, ids=lambda v: v.name)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_kernel_level_calls_give_equal_bits(
    variant: problems.Variant, dtype: type, n_threads: int
) -> None:
    problem = problems.Dense([(1006,)], np.dtype(dtype).name, variant, n_threads)
    results = []
    for build in (native.package, native.c_file):
        arrays = [problem.zeros()[0] for _ in range(4)]
        assert build(problem, arrays).check() is None
        results.append(np.stack(arrays))
    np.testing.assert_array_equal(*results)


@needs_linux
def test_memory_of_a_step_is_asked_of_a_fresh_process() -> None:
    asked = memory.ask("1000x64", "NumPy", EFFORT).cost
    assert asked is not None
    assert 0 < asked() < 2**30
