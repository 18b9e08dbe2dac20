"""Plots of a run's JSON: throughput with its limit, bars against peers, table sizes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.harness import OURS
from benchmarks.machine import headline
from benchmarks.problems import VARIANTS
from benchmarks.report import number

__all__ = ["draw"]

Cases = dict[str, dict[str, Any]]  # of the JSON
Point = tuple[float, float]

BLUE, ORANGE, GREY = "#1f77b4", "#e6821e", "#a8a8a8"
LINES = ((OURS, "o-", ""), ("limit", "--", ", limit"))
# They are no peers: no library's RMSprop.
YARDSTICKS = (OURS, "limit", "copy", "np.add")
PEER_CASES = {
    "overhead/1x1": "1 variable of 1 element",
    "many_tensors/1000x64": "1,000 variables of 64",
    "many_tensors/resnet50": "ResNet-50: 161 variables, 25.6 M",
    "many_tensors/gpt2-small": "GPT-2 small: 148 variables, 124 M",
    "dense/plain/float32/1e7": "1 variable of 10 M",
    "sparse/uniform/1e6x64": "16,384 rows of 1 M x 64",
}


def draw(results: dict[str, Any], folder: Path) -> Iterator[Path]:
    """Write those plots for which there are figures; yield their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = {
        name: case
        for name, case in results["cases"].items()
        if OURS in case["contestants"]
    }
    plots = {"dense": dense, "peers": peers, "sparse": sparse}
    for name, plot in plots.items():
        figure = plot(cases)
        if figure is not None:
            figure.text(0.01, 0.01, headline(results["machine"]), size=6, color="0.4")
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=120)
            yield path


def new_figure(width: float, height: float) -> Figure:
    """Return a figure with room for the machine's name below."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0.2 / height, 1, 1 - 0.2 / height))
    return figure


def line(panel: Axes, points: list[Point], style: str, **how: Any) -> None:
    """Draw points in order of x."""
    if points:
        panel.plot(*zip(*sorted(points), strict=True), style, markersize=4, **how)


def finish(panel: Axes) -> None:
    """Set the axes once all lines are there."""
    panel.set_xscale("log")
    panel.set_ylim(bottom=0)
    panel.grid(visible=True, alpha=0.3)


def dense(cases: Cases) -> Figure | None:
    """Return bytes per second against size; a panel for each variant."""
    if not any(name.startswith("dense/") for name in cases):
        return None
    figure = new_figure(9, 6.2)
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for variant, panel in zip(VARIANTS, panels.flat, strict=True):
        for dtype, color in (("float32", BLUE), ("float64", ORANGE)):
            prefix = f"dense/{variant.name}/{dtype}/"
            for name, style, label in LINES:
                points = [
                    (
                        float(case.removeprefix(prefix)),
                        cases[case]["contestants"][name]["rate"] / 1e9,
                    )
                    for case in cases
                    if case.startswith(prefix) and name in cases[case]["contestants"]
                ]
                line(panel, points, style, color=color, label=dtype + label)
        panel.set_title(variant.name, size=10)
    for panel in panels.flat:
        finish(panel)
    for panel in panels[1]:
        panel.set_xlabel("elements of one variable")
    for panel in panels[:, 0]:
        panel.set_ylabel("GB/s read and written")
    panels[0, 0].legend(fontsize=8)
    figure.suptitle("A dense step, and the same streams with one multiply-add each")
    return figure


def peers(cases: Cases) -> Figure | None:
    """Return how many times longer the peers take; a panel for each case."""
    found = [name for name in PEER_CASES if name in cases]
    if not found:
        return None
    n_lines = -(-len(found) // 3)
    figure = new_figure(10, 0.6 + 2.7 * n_lines)
    panels = figure.subplots(n_lines, 3, squeeze=False)
    for panel, name in zip_longest(panels.flat, found):
        if name is None:
            panel.axis("off")
        else:
            bars(panel, cases[name], PEER_CASES[name])
    figure.suptitle("Time of a plain float32 step; rmsprop_fast's is 1, the blue line")
    return figure


def bars(panel: Axes, case: dict[str, Any], title: str) -> None:
    """Draw one case, the fastest peer on top."""
    ratios = {
        name: figures["ratio"][1]
        for name, figures in case["contestants"].items()
        if name not in YARDSTICKS
    }
    names = sorted(ratios, key=ratios.__getitem__, reverse=True)
    panel.barh(names, [ratios[name] for name in names], color=GREY)
    panel.axvline(1, color=BLUE)
    for name in names:
        beside = 1.1 * max(1, ratios[name])
        panel.text(beside, name, f"{number(ratios[name])}", size=8, va="center")
    panel.set_xscale("log")
    panel.set_xlim(0.4, 5 * max(ratios.values(), default=1))
    panel.set_title(title, size=9)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def sparse(cases: Cases) -> Figure | None:
    """Return the cost of a row against the size of the table."""
    if not any(name.startswith("sparse/uniform/") for name in cases):
        return None
    figure = new_figure(6.5, 4.4)
    panel = figure.subplots()
    for width, color in ((8, ORANGE), (64, BLUE)):
        for name, style, label in LINES:
            points = [
                (
                    float(case.rpartition("/")[2].partition("x")[0]),
                    cases[case]["contestants"][name]["cost"][1] * 1e9,
                )
                for case in cases
                if case.startswith("sparse/uniform/")
                and case.endswith(f"x{width}")
                and name in cases[case]["contestants"]
            ]
            line(panel, points, style, color=color, label=f"rows of {width}{label}")
    finish(panel)
    panel.legend(fontsize=8)
    panel.set_xlabel("rows of the table")
    panel.set_ylabel("ns per row, 16,384 rows a step")
    panel.set_title("A row's cost against the size of the table, float32", size=10)
    return figure
