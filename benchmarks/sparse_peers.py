"""What other libraries offer for row-sparse gradients: a step per batch of rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness import OURS
from benchmarks.peers import Peer, import_tensorflow
from benchmarks.problems import EPSILON, LEARNING_RATE, RHO, Array, Sparse
from rmsprop_fast import IndexedSlices, RMSprop

__all__ = ["SPARSE_PEERS", "OursRows"]


def rotate(batches: Iterator[Callable[[], Any]]) -> Callable[[], Any]:
    """Return a step that calls the next of `batches` every time."""
    following = itertools.cycle(list(batches))
    return lambda: next(following)()


class OursRows(Peer):
    """This package."""

    name = OURS
    package = "rmsprop_fast"

    def __init__(self, problem: Sparse) -> None:
        self.table = problem.zeros()
        self.n_bytes = problem.n_bytes
        opt = RMSprop(
            LEARNING_RATE,
            RHO,
            problem.variant.momentum,
            epsilon=EPSILON,
            num_threads=problem.n_threads,
            catch_up=problem.variant.catch_up,
        )
        opt.build([self.table])
        self.opt = opt
        self.rms = opt.get_slot(self.table, "rms")
        for slot in opt.weights:
            slot.fill(0)  # touches every page
        self.step = rotate(
            partial(
                opt.apply_gradients,
                [(IndexedSlices(problem.values, batch), self.table)],
            )
            for batch in problem.batches
        )

    def params(self) -> list[Array]:
        return [self.table]


class NumPyRows(Peer):
    """unique, add.at and fancy indexing."""

    name = "NumPy"
    package = "numpy"

    def __init__(self, problem: Sparse) -> None:
        self.table, self.rms = problem.zeros(), problem.zeros()
        self.step = rotate(
            partial(self.update, batch, problem.values) for batch in problem.batches
        )

    def update(self, indices: Array, values: Array) -> None:
        rows, which = np.unique(indices, return_inverse=True)
        grad = np.zeros((rows.size, values.shape[1]), values.dtype)
        np.add.at(grad, which, values)
        rms = RHO * self.rms[rows] + (1 - RHO) * grad**2
        self.rms[rows] = rms
        self.table[rows] -= LEARNING_RATE * grad / np.sqrt(rms + EPSILON)

    def params(self) -> list[Array]:
        return [self.table]


class TorchRows(Peer):
    """SparseAdam: torch has no sparse RMSprop.

    Without its first moment's memory (beta 0) it is RMSprop whose learning rate has
    Adam's correction of the second moment, so that its result can be checked.
    """

    name = "torch SparseAdam"
    package = "torch"
    eps_in_sqrt = False

    def __init__(self, problem: Sparse) -> None:
        import torch

        torch.set_num_threads(problem.n_threads)
        self.tensor = torch.from_numpy(problem.zeros())
        opt = torch.optim.SparseAdam(
            [self.tensor], lr=LEARNING_RATE, betas=(0, RHO), eps=EPSILON
        )
        values = torch.from_numpy(problem.values)

        def update(grad: torch.Tensor) -> None:
            self.tensor.grad = grad
            opt.step()

        self.step = rotate(
            partial(
                update,
                torch.sparse_coo_tensor(
                    torch.from_numpy(batch)[None],
                    values,
                    problem.shape,
                    check_invariants=False,
                ),
            )
            for batch in problem.batches
        )

    def rate(self, step: int) -> float:
        return LEARNING_RATE * math.sqrt(1 - RHO**step)

    def params(self) -> list[Array]:
        return [self.tensor.numpy()]


class TensorFlowRows(Peer):
    """TensorFlow's sparse kernel, as Keras 2 called it, in tf.function.

    Keras 3 decays the whole table. The kernel always has momentum; here it is 0.
    """

    name = "TensorFlow"
    package = "tensorflow"

    def __init__(self, problem: Sparse) -> None:
        _, tf = import_tensorflow()
        self.variable, rms, mom = (tf.Variable(problem.zeros()) for _ in range(3))
        values = tf.constant(problem.values)

        @tf.function
        def update(indices: Any) -> None:
            rows, which = tf.unique(indices)
            grad = tf.math.unsorted_segment_sum(values, which, tf.size(rows))
            tf.raw_ops.ResourceSparseApplyRMSProp(
                var=self.variable.handle,
                ms=rms.handle,
                mom=mom.handle,
                lr=LEARNING_RATE,
                rho=RHO,
                momentum=0.0,
                epsilon=EPSILON,
                grad=grad,
                indices=rows,
            )

        self.step = rotate(
            partial(update, tf.constant(batch)) for batch in problem.batches
        )

    def params(self) -> list[Array]:
        return [self.variable.numpy()]


SPARSE_PEERS: list[type[Peer]] = [NumPyRows, TorchRows, TensorFlowRows]
