"""Score against seconds, a picture per case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

__all__ = ["draw"]

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red")


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draw every case that was measured; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [
        draw_case(case, folder / f"estimators_{name}.png")
        for name, case in results["cases"].items()
    ]
    if "epochs" in results:
        paths.append(draw_epochs(results["epochs"], folder / "estimators_epochs.png"))
    return paths


def draw_case(case: dict[str, Any], path: Path) -> Path:
    """Draw the test score against the seconds of training, a line per seed."""
    figure = Figure(figsize=(7.5, 4), layout="constrained", dpi=150)
    axes = figure.subplots()
    shown = [
        (label, one) for label, one in case["contestants"].items() if "runs" in one
    ]
    ours = shown[0][1]["runs"].values()
    first = min(run["test"][0] for run in ours)
    high = max(max(run["test"]) for _, one in shown for run in one["runs"].values())
    for (label, one), colour in zip(shown, COLOURS, strict=False):
        for number, run in enumerate(one["runs"].values()):
            axes.plot(
                run["seconds"],
                run["test"],
                "o-",
                color=colour,
                markersize=3,
                linewidth=1,
                alpha=0.8,
                label=None if number else label,
            )
    # The first moments of some are so low that nothing else could be seen.
    axes.set_ylim(high - 2 * (high - first), high + 0.1 * (high - first))
    axes.set(
        xscale="log",
        title=case["data"],
        xlabel="seconds of training",
        ylabel=f"test {case['unit']}",
    )
    axes.title.set_fontsize(9)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    return path


def draw_epochs(epochs: dict[str, Any], path: Path) -> Path:
    """Draw what an epoch costs."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained", dpi=150)
    by_values, by_width = figure.subplots(1, 2)
    for (what, points), colour in zip(epochs.items(), COLOURS, strict=False):
        axes = by_width if "features" in what else by_values
        n, seconds = zip(*points, strict=True)
        ms = [1e3 * s for s in seconds]
        axes.plot(n, ms, "o-", color=colour, label=what)
    by_values.set(xlabel="non-zeros in X", ylabel="ms per epoch")
    by_width.set(xlabel="features", xscale="log")
    for axes in (by_values, by_width):
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    return path
