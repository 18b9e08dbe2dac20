"""Train one model with lazy and with caught-up rows, and with the call forgotten.

Softmax regression from a place's name to its country, as in the demo, with momentum.
Every run sees the same mini-batches.

    python docs/examples/catch_up.py          print the table, draw the plot
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from rmsprop_fast import RMSprop
from rmsprop_fast.demo import BATCH_SIZE, SEED, Model, Places, gradients, load_places

PNG = Path(__file__).parent.parent / "images" / "catch_up.png"
MOMENTUM = 0.99
RATES = (0.00003, 0.0001, 0.0003)
DENSE_STEPS = 30  # compared with steps whose gradient is as large as the table


class Way(NamedTuple):
    """How rows that are in no batch are treated."""

    name: str
    colour: str
    catch_up: bool
    before_loss: bool


LAZY = Way("lazy", "tab:gray", catch_up=False, before_loss=False)
CAUGHT_UP = Way("catch_up", "tab:blue", catch_up=True, before_loss=True)
FORGOTTEN = Way("catch_up, not called", "tab:red", catch_up=True, before_loss=False)
WAYS = (CAUGHT_UP, LAZY, FORGOTTEN)


class Run:
    """One training: its losses, and how wrong the first reading of each was."""

    def __init__(self, places: Places, way: Way, rate: float, n_steps: int) -> None:
        self.losses: list[float] = []
        self.off: list[float] = []
        self.model = model = Model.zeros(len(places.countries))
        opt = RMSprop(rate, momentum=MOMENTUM, catch_up=way.catch_up)
        opt.build(list(model))
        for names in batches(len(places.train.y), n_steps):
            x, y = places.train.x[names], places.train.y[names]
            p = model.probabilities(x)
            if way.before_loss:
                early = cross_entropy(p, y)
                opt.catch_up(model.w, x.indices)
                p = model.probabilities(x)
                self.off.append(abs(cross_entropy(p, y) - early))
            grad_w, grad_b = gradients(p, x, y)
            opt.apply_gradients([(grad_w, model.w), (grad_b, model.b)])
            self.losses.append(cross_entropy(p, y))
        if way.catch_up:
            opt.catch_up()
        self.validation = cross_entropy(
            model.probabilities(places.validation.x), places.validation.y
        )
        self.accuracy = model.accuracy(places.validation)


def batches(n: int, n_steps: int) -> Any:
    """Yield the same mini-batches every time."""
    random = np.random.default_rng(SEED)
    epochs = -(-n_steps * BATCH_SIZE // n)
    order = np.concatenate([random.permutation(n) for _ in range(epochs)])
    for step in range(n_steps):
        yield order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]


def cross_entropy(p: Any, y: Any) -> float:
    """Return the mean of -log p[i, y[i]]."""
    return -float(np.log(np.maximum(p[np.arange(len(y)), y], 1e-30)).mean())


def dense_difference(places: Places, rate: float) -> float:
    """Return how far the caught-up table is from one that took dense steps."""
    rows = Run(places, CAUGHT_UP, rate, DENSE_STEPS).model
    model = Model.zeros(len(places.countries))
    opt = RMSprop(rate, momentum=MOMENTUM)
    for names in batches(len(places.train.y), DENSE_STEPS):
        x, y = places.train.x[names], places.train.y[names]
        grad_w, grad_b = gradients(model.probabilities(x), x, y)
        dense = np.zeros_like(model.w)
        np.add.at(dense, grad_w.indices, grad_w.values)
        opt.apply_gradients([(dense, model.w), (grad_b, model.b)])
    return float(np.abs(rows.w - model.w).max() / np.abs(model.w).max())


def draw(runs: dict[tuple[Way, float], Run], png: Path) -> None:
    """Draw the training losses, a panel for each learning rate."""
    figure = Figure(figsize=(10, 3.2), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(RATES), sharey=True)
    for panel, rate in zip(panels, RATES, strict=True):
        for way in WAYS:
            losses = runs[way, rate].losses
            window = min(25, len(losses))
            smooth = np.convolve(losses, np.full(window, 1 / window), "valid")
            steps = np.arange(window, len(losses) + 1)
            panel.plot(steps, smooth, color=way.colour, lw=1.5, label=way.name)
        panel.set(title=f"learning rate {rate}", xlabel="step")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("training loss (nats)")
    panels[0].legend(frameon=False)
    figure.savefig(png)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; return the exit status."""
    parser = argparse.ArgumentParser(description="Compare lazy and caught-up rows.")
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--places", type=int, help="train on so many names only")
    parser.add_argument("--png", type=Path, default=PNG, help="the plot (%(default)s)")
    options = parser.parse_args(argv)
    places = load_places(options.places)
    off = dense_difference(places, RATES[1])
    print(
        f"after {DENSE_STEPS} steps catch_up is {off:.0e} of the table's largest "
        "weight from dense steps\n"
    )
    runs = {}
    print(f"{'rate':<8}{'rows':<22}{'validation loss':>16}{'accuracy':>10}")
    for rate in RATES:
        for way in WAYS:
            run = runs[way, rate] = Run(places, way, rate, options.steps)
            print(
                f"{rate:<8}{way.name:<22}{run.validation:>16.3f}{run.accuracy:>10.3f}"
            )
        stale = runs[CAUGHT_UP, rate]
        print(f"{'':8}a loss read before the call is off by {np.mean(stale.off):.3f}\n")
    draw(runs, options.png)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
