"""Steps over many variables: a thousand small ones, and those of real networks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.harness import OURS, Case, Contestant, Effort, Entry, Target
from benchmarks.peers import PEERS, Ours, TorchCompiled, enter, entries
from benchmarks.problems import Dense
from benchmarks.shapes import MODELS, Shape, size

__all__ = ["cases", "np_add"]

TORCH = ("torch foreach", "torch for-loop")
SMALL_TARGETS = (
    Target(("np.add",), 2, "<= 0.5x one np.add(p, g, p)"),
    Target(TORCH, 60, ">= 60x torch"),
    Target(("optax in jit",), 40, ">= 40x optax in jit"),
)
MODEL_TARGETS = (
    Target(TORCH, 5, ">= 5x torch"),
    Target(("torch.compile",), 1, ">= 1x torch.compile"),
)


def np_add(size: int) -> Contestant:
    """Return the shortest NumPy call on a variable of this size."""
    param, grad = np.zeros(size, np.float32), np.ones(size, np.float32)
    return Contestant(partial(np.add, param, grad, param))


def cases(effort: Effort) -> Iterator[Case]:
    """Yield a thousand small variables, then the models."""
    small = partial(contestants, [(64,)] * 1000, 1000, effort)
    yield Case("many_tensors/1000x64", "tensor", small, SMALL_TARGETS)
    for name, model in MODELS.items():
        if effort.quick and name == "gpt2-small":
            continue
        shapes = model()
        built = partial(contestants, shapes, size(shapes), effort)
        targets = () if name == "mlp" else MODEL_TARGETS
        yield Case(f"many_tensors/{name}", "element", built, targets)


def contestants(shapes: list[Shape], units: int, effort: Effort) -> Iterator[Entry]:
    """Yield ourselves, one np.add where tensors are counted, and peers."""
    problem = Dense(shapes, n_threads=effort.n_threads)
    yield OURS, lambda: enter(Ours(problem), problem, units)
    if units == len(shapes):
        yield "np.add", partial(np_add, size(shapes[:1]))
    peers = [peer for peer in PEERS if not (effort.quick and peer is TorchCompiled)]
    yield from entries(peers, problem, units)
