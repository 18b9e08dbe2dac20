"""Every library that has dense RMSprop, each set up as its own documentation advises.

A peer's constructor makes variables of zeros, does whatever it can do beforehand, and
leaves one step to be called; `params` returns the variables as NumPy arrays.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, ClassVar

import numpy as np

from benchmarks.harness import OURS, Contestant, Entry, RefusedError
from benchmarks.problems import (
    CHECKED_STEPS,
    EPSILON,
    LEARNING_RATE,
    RHO,
    Array,
    Dense,
    Problem,
    Variant,
)
from rmsprop_fast import RMSprop

__all__ = [
    "PEERS",
    "Ours",
    "Peer",
    "build",
    "enter",
    "entries",
    "is_installed",
    "torch_rmsprop",
]

FIRST_STEP_SECONDS = 90  # compilation included

# TensorFlow reads them when it is imported: say nothing but errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The host is what they are compared on, unless the command line names a device's cases.
if not any(word.startswith("gpu") for word in sys.argv[1:]):
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


class Peer:
    """One library's way to make a step."""

    name: ClassVar[str]
    package: ClassVar[str]
    eps_in_sqrt: ClassVar[bool] = True
    n_bytes = 0  # read and written per step; 0: not known, there are temporaries
    step: Callable[[], Any]

    def __init__(self, problem: Any) -> None:
        raise NotImplementedError

    def params(self) -> Sequence[Array]:
        """Return the variables as NumPy arrays."""
        raise NotImplementedError

    def rate(self, step: int) -> float:
        """Return the learning rate that a step of this peer amounts to."""
        return LEARNING_RATE


def is_installed(peer: type[Peer]) -> bool:
    """Return whether the peer's package is there, without importing it."""
    return importlib.util.find_spec(peer.package) is not None


def enter(peer: Peer, problem: Problem, units: float) -> Contestant:
    """Return a built peer as a contestant, whose check makes its first steps."""

    def check() -> str | None:
        with time_limit(FIRST_STEP_SECONDS):
            peer.step()
        for _ in range(1, CHECKED_STEPS):
            peer.step()
        return problem.mistake(peer.params(), peer.eps_in_sqrt, peer.rate)

    return Contestant(peer.step, units, peer.n_bytes, check)


def entries(
    peers: Sequence[type[Peer]], problem: Problem, units: float
) -> Iterator[Entry]:
    """Yield those peers that are installed."""
    for peer in filter(is_installed, peers):
        yield peer.name, partial(build, peer, problem, units)


def build(peer: type[Peer], problem: Problem, units: float) -> Contestant:
    """Return a peer as a contestant."""
    return enter(peer(problem), problem, units)


def import_tensorflow() -> tuple[Any, Any]:
    """Return keras and tensorflow; the import writes to stderr whatever one sets."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        import keras
        import tensorflow as tf
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
    return keras, tf


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Refuse what takes longer; compilers of Python code run in this thread."""
    is_over = False

    def give_up(*_: Any) -> None:
        nonlocal is_over
        is_over = True
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    except Exception as error:  # torch wraps ours in its own
        if is_over:
            raise RefusedError(f"no first step within {seconds} s") from error
        raise
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Ours(Peer):
    """This package."""

    name = OURS
    package = "rmsprop_fast"

    def __init__(self, problem: Dense, **options: Any) -> None:
        variant = problem.variant
        self._params = problem.zeros()
        self.opt = RMSprop(
            LEARNING_RATE,
            RHO,
            variant.momentum,
            EPSILON,
            variant.centered,
            num_threads=problem.n_threads,
            weight_decay=variant.weight_decay,
            **options,
        )
        self.opt.build(self._params)
        for slot in self.opt.weights:
            slot.fill(0)  # touches every page
        pairs = list(zip(problem.grads, self._params, strict=True))
        self.n_bytes = problem.n_bytes
        self.step = partial(self.opt.apply_gradients, pairs)

    def params(self) -> Sequence[Array]:
        return self._params

    def slots(self) -> list[Array]:
        """Return the slots of the only variable."""
        return self.opt.weights[1:]


class NumPy(Peer):
    """Expressions over whole arrays, in place where one writes it so."""

    name = "NumPy"
    package = "numpy"

    def __init__(self, problem: Dense) -> None:
        self._params = problem.zeros()
        slots = [problem.zeros() for _ in range(3)]
        updates = [
            partial(self.update, problem.variant, *arrays)
            for arrays in zip(problem.grads, self._params, *slots, strict=True)
        ]
        self.step = partial(call_all, updates)

    @staticmethod
    def update(
        variant: Variant, grad: Array, param: Array, rms: Array, mg: Array, mom: Array
    ) -> None:
        rms *= RHO
        rms += (1 - RHO) * grad**2
        d = rms
        if variant.centered:
            mg *= RHO
            mg += (1 - RHO) * grad
            d = rms - mg**2
        inc = LEARNING_RATE * grad / np.sqrt(d + EPSILON)
        if variant.momentum:
            mom *= variant.momentum
            mom += inc
            inc = mom
        param -= inc

    def params(self) -> Sequence[Array]:
        return self._params


def call_all(functions: list[Callable[[], None]]) -> None:
    for function in functions:
        function()


class Numba(Peer):
    """One fused loop over threads."""

    name = "numba"
    package = "numba"

    def __init__(self, problem: Dense) -> None:
        import numba

        numba.set_num_threads(problem.n_threads)
        variant, scalar = problem.variant, problem.dtype.type
        self.n_bytes = problem.n_bytes
        self._params = problem.zeros()
        slots = [problem.zeros()] + [
            problem.zeros() if present else [np.empty(0, scalar)] * len(self._params)
            for present in (variant.centered, variant.momentum)
        ]
        scalars = (LEARNING_RATE, RHO, 1 - RHO, variant.momentum, EPSILON)
        update = fused(variant.centered, variant.momentum > 0)
        updates = [
            partial(update, *(a.reshape(-1) for a in arrays), *map(scalar, scalars))
            for arrays in zip(problem.grads, self._params, *slots, strict=True)
        ]
        self.step = partial(call_all, updates)

    def params(self) -> Sequence[Array]:
        return self._params


@cache
def fused(centered: bool, momentum: bool) -> Any:
    """Return numba's compiled loop of one variant."""
    import numba

    @numba.njit(parallel=True, error_model="numpy")
    def update(grad, param, rms, mg, mom, lr, rho, rest, decay, epsilon):  # type: ignore[no-untyped-def]
        for i in numba.prange(param.size):
            g = grad[i]
            d = rms[i] = rho * rms[i] + rest * (g * g)
            if centered:
                mg[i] = rho * mg[i] + rest * g
                d -= mg[i] * mg[i]
            inc = lr * g / np.sqrt(d + epsilon)
            if momentum:
                inc = mom[i] = decay * mom[i] + inc
            param[i] -= inc

    return update


def torch_rmsprop(tensors: list[Any], variant: Variant, foreach: bool) -> Any:
    """Return the optimizer of torch for tensors, on the processor or on a device."""
    import torch

    return torch.optim.RMSprop(
        tensors,
        lr=LEARNING_RATE,
        alpha=RHO,
        eps=EPSILON,
        momentum=variant.momentum,
        centered=variant.centered,
        foreach=foreach,
    )


class Torch(Peer):
    """torch.optim.RMSprop; `foreach` fuses each operation over all variables."""

    name = "torch for-loop"
    package = "torch"
    eps_in_sqrt = False
    foreach = False

    def __init__(self, problem: Dense) -> None:
        import torch

        torch.set_num_threads(problem.n_threads)
        self.tensors = [torch.from_numpy(array) for array in problem.zeros()]
        for tensor, grad in zip(self.tensors, problem.grads, strict=True):
            tensor.grad = torch.from_numpy(grad)
        self.opt = torch_rmsprop(self.tensors, problem.variant, self.foreach)
        self.step = self.opt.step

    def params(self) -> Sequence[Array]:
        return [tensor.numpy() for tensor in self.tensors]


class TorchForeach(Torch):
    name = "torch foreach"
    foreach = True


class TorchCompiled(Torch):
    """torch.compile(opt.step), where that ends in time."""

    name = "torch.compile"

    def __init__(self, problem: Dense) -> None:
        import torch
        import torch._inductor.config

        super().__init__(problem)
        # In this process: workers would go on compiling after the time limit.
        torch._inductor.config.compile_threads = 1
        torch._logging.set_logs(dynamo=logging.ERROR)
        torch._dynamo.reset()  # what it compiled for the last problem counts as many
        self.step = torch.compile(self.opt.step)


class Optax(Peer):
    """optax in jit; variables and state are donated, so that XLA updates in place."""

    name = "optax in jit"
    package = "optax"

    def __init__(self, problem: Dense) -> None:
        import jax
        import optax

        jax.config.update("jax_enable_x64", True)
        variant = problem.variant
        transform = optax.rmsprop(
            LEARNING_RATE,
            decay=RHO,
            eps=EPSILON,
            eps_in_sqrt=True,
            centered=variant.centered,
            momentum=variant.momentum or None,
        )

        @partial(jax.jit, donate_argnums=(0, 1))
        def update(params: Any, state: Any, grads: Any) -> Any:
            updates, state = transform.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        grads = [jax.numpy.array(grad) for grad in problem.grads]
        self.arrays = [jax.numpy.array(array) for array in problem.zeros()]
        self.state = transform.init(self.arrays)

        def step() -> None:
            self.arrays, self.state = update(self.arrays, self.state, grads)
            jax.block_until_ready(self.arrays)

        self.step = step

    def params(self) -> Sequence[Array]:
        return [np.asarray(array) for array in self.arrays]


class TensorFlow(Peer):
    """Keras 3's optimizer on TensorFlow, in tf.function."""

    name = "TensorFlow"
    package = "tensorflow"

    def __init__(self, problem: Dense) -> None:
        keras, tf = import_tensorflow()
        if keras.backend.backend() != "tensorflow":
            raise RefusedError(f"Keras runs on {keras.backend.backend()} here")
        self.variables = [
            keras.Variable(array, dtype=problem.dtype.name) for array in problem.zeros()
        ]
        grads = [tf.constant(grad) for grad in problem.grads]
        opt = keras.optimizers.RMSprop(
            LEARNING_RATE,
            rho=RHO,
            momentum=problem.variant.momentum,
            epsilon=EPSILON,
            centered=problem.variant.centered,
        )
        opt.build(self.variables)
        self.step = tf.function(lambda: opt.apply(grads, self.variables))

    def params(self) -> Sequence[Array]:
        return [variable.numpy() for variable in self.variables]


PEERS: list[type[Peer]] = [
    NumPy,
    Numba,
    Torch,
    TorchForeach,
    TorchCompiled,
    Optax,
    TensorFlow,
]
