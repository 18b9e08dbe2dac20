"""The contestants of the estimators' benchmark: ours and the peers'."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import (
    LogisticRegression,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.neural_network import MLPClassifier

from benchmarks.estimators_data import Problem
from benchmarks.harness import RefusedError
from rmsprop_fast.estimators import (
    FactorizationMachineRegressor,
    RMSpropClassifier,
    RMSpropMLPClassifier,
    RMSpropRegressor,
)

__all__ = ["Contestant", "contestants"]

Array = np.ndarray[Any, Any]
Setting = dict[str, Any]
Moment = tuple[float, Callable[[Any], Array]]  # seconds so far, and how to predict


class Contestant(ABC):
    """A way to learn a problem, with the settings among which it is tuned."""

    is_random = True  # so that several seeds say something
    growth = 1.0  # of the seconds, from one moment to the next

    def __init__(self, name: str, grid: Sequence[Setting]) -> None:
        self.name, self.grid = name, grid

    @abstractmethod
    def moments(
        self, setting: Setting, seed: int, problem: Problem
    ) -> Iterator[Moment]:
        """Train on and on; yield after each stretch that can be scored."""


class ByEpoch(Contestant):
    """An estimator with partial_fit."""

    def __init__(
        self, name: str, make: Callable[..., Any], grid: Sequence[Setting], **more: Any
    ) -> None:
        super().__init__(name, grid)
        self.make, self.more = make, more

    def moments(
        self, setting: Setting, seed: int, problem: Problem
    ) -> Iterator[Moment]:
        """Yield after each epoch."""
        model = self.make(random_state=seed, **self.more, **setting)
        X, y = problem.train.X, problem.train.y
        first = {"classes": np.unique(y)} if is_classifier(model) else {}
        seconds = 0.0
        for _ in count():
            start = time.perf_counter()
            model.partial_fit(X, y, **first)
            seconds += time.perf_counter() - start
            yield seconds, model.predict
            first = {}


class ByLength(Contestant):
    """An estimator that begins anew: each moment is a fit of its own, twice as long.

    Its seconds are those of that fit alone.
    """

    growth = 2.0

    def __init__(
        self, name: str, make: Callable[..., Any], grid: Sequence[Setting], **more: Any
    ) -> None:
        super().__init__(name, grid)
        self.make, self.more = make, more
        self.is_random = more.get("solver") == "saga"

    def moments(
        self, setting: Setting, seed: int, problem: Problem
    ) -> Iterator[Moment]:
        """Yield after 1, 2, 4, ... iterations."""
        for power in count():
            model = self.make(
                random_state=seed, max_iter=2**power, **self.more, **setting
            )
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(problem.train.X, problem.train.y)
            yield time.perf_counter() - start, model.predict
            if np.max(model.n_iter_) < 2**power:
                return  # it has converged


class Exact(Contestant):
    """An estimator with one answer."""

    is_random = False

    def __init__(
        self, name: str, make: Callable[..., Any], grid: Sequence[Setting]
    ) -> None:
        super().__init__(name, grid)
        self.make = make

    def moments(
        self, setting: Setting, seed: int, problem: Problem
    ) -> Iterator[Moment]:
        """Yield once."""
        model = self.make(**setting)
        start = time.perf_counter()
        model.fit(problem.train.X, problem.train.y)
        yield time.perf_counter() - start, model.predict


def pairs(X: Any) -> tuple[Array, Array]:
    """Return the two columns that are 1 in each row."""
    columns = X.indices.reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


class SurpriseSVD(Contestant):
    """scikit-surprise's biased matrix factorisation: SGD in Cython, float64."""

    growth = 1.5

    def moments(
        self, setting: Setting, seed: int, problem: Problem
    ) -> Iterator[Moment]:
        """Yield after 1, 2, 3, 5, ... epochs: each a fit of its own."""
        if importlib.util.find_spec("surprise") is None:
            raise RefusedError("pip install scikit-surprise")
        from surprise import SVD, Trainset

        user, item = pairs(problem.train.X)
        n_users, n = int(user.max()) + 1, problem.train.X.shape[1]
        ur: dict[int, list[tuple[int, float]]] = {u: [] for u in range(n_users)}
        ir: dict[int, list[tuple[int, float]]] = {i: [] for i in range(n - n_users)}
        for u, i, r in zip(user, item - n_users, problem.train.y, strict=True):
            ur[int(u)].append((int(i), float(r)))
            ir[int(i)].append((int(u), float(r)))
        ids = [{k: k for k in table} for table in (ur, ir)]
        data = Trainset(ur, ir, n_users, n - n_users, len(user), (1, 5), *ids)

        def predictor(model: Any) -> Callable[[Any], Array]:
            def predict(X: Any) -> Array:
                u, i = pairs(X)
                i = i - n_users
                product = np.einsum("nf,nf->n", model.pu[u], model.qi[i])
                return data.global_mean + model.bu[u] + model.bi[i] + product

            return predict

        for n_epochs in (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60, 80, 120):
            model = SVD(n_epochs=n_epochs, random_state=seed, **setting)
            start = time.perf_counter()
            model.fit(data)
            yield time.perf_counter() - start, predictor(model)


class MyFM(Contestant):
    """myfm's Bayesian factorization machine: Gibbs sampling in C++."""

    growth = 2.0

    def moments(
        self, setting: Setting, seed: int, problem: Problem
    ) -> Iterator[Moment]:
        """Yield after 4, 8, 16, ... samples of the posterior: each a fit of its own."""
        if importlib.util.find_spec("myfm") is None:
            raise RefusedError("pip install myfm")
        try:
            from myfm import MyFMRegressor
        except ImportError as error:  # 0.4.0 asks setuptools < 81 for pkg_resources
            raise RefusedError(f"myfm: {error}") from error

        X = problem.train.X.astype(np.float64)
        for power in range(2, 10):
            model = MyFMRegressor(random_seed=seed, **setting)
            start = time.perf_counter()
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
                model.fit(
                    X,
                    problem.train.y,
                    n_iter=2**power,
                    n_kept_samples=2 ** (power - 1),
                )
            yield (
                time.perf_counter() - start,
                lambda X, model=model: model.predict(X.astype(np.float64)),
            )


def each(**choices: Sequence[Any]) -> list[Setting]:
    """Return all combinations."""
    settings: list[Setting] = [{}]
    for name, values in choices.items():
        settings = [{**one, name: value} for one in settings for value in values]
    return settings


def contestants(n_threads: int) -> dict[str, list[Contestant]]:
    """Return those of each case; ours come first."""
    sgd = {"loss": "log_loss", "n_jobs": n_threads}
    places_sgd = [
        *each(alpha=[1e-5, 3e-5, 1e-4]),
        *each(alpha=[1e-5], average=[True]),
        *each(alpha=[1e-6], learning_rate=["constant"], eta0=[0.03, 0.3]),
    ]
    wide = {"hidden_layer_sizes": (1024, 512), "batch_size": 32}
    rates = [0.0001, 0.0003, 0.001, 0.003]
    ours = {"num_threads": n_threads}
    return {
        "places": [
            ByEpoch(
                "RMSpropClassifier",
                RMSpropClassifier,
                [
                    *each(
                        alpha=[0],
                        epsilon=[1e-7, 1e-6, 1e-5],
                        average=[False, 150_000],
                    ),
                    *each(
                        alpha=[0],
                        learning_rate=[0.02],
                        epsilon=[1e-6],
                        average=[150_000],
                    ),
                    *each(alpha=[2e-6], epsilon=[1e-6], average=[150_000]),
                ],
                batch_size=256,
                **ours,
            ),
            ByEpoch("SGDClassifier", SGDClassifier, places_sgd, **sgd),
            ByLength(
                "LogisticRegression, lbfgs",
                LogisticRegression,
                each(C=[1, 10]),
                solver="lbfgs",
            ),
            ByLength(
                "LogisticRegression, saga",
                LogisticRegression,
                each(C=[1, 10]),
                solver="saga",
            ),
        ],
        "digits": [
            ByEpoch(
                "RMSpropClassifier",
                RMSpropClassifier,
                each(
                    learning_rate=[0.003, 0.01, 0.03], alpha=[1e-4, 0], average=[True]
                ),
                **ours,
            ),
            ByEpoch(
                "SGDClassifier",
                SGDClassifier,
                each(alpha=[1e-5, 1e-4, 1e-3], average=[False, True]),
                **sgd,
            ),
            ByLength(
                "LogisticRegression, lbfgs",
                LogisticRegression,
                each(C=[0.1, 1, 10]),
                solver="lbfgs",
            ),
            ByLength(
                "LogisticRegression, saga",
                LogisticRegression,
                each(C=[0.1, 1, 10]),
                solver="saga",
            ),
        ],
        "diabetes": [
            ByEpoch(
                "RMSpropRegressor",
                RMSpropRegressor,
                each(learning_rate=[0.003, 0.01, 0.03], alpha=[0, 0.03, 0.3]),
                average=True,
                **ours,
            ),
            ByEpoch(
                "SGDRegressor",
                SGDRegressor,
                each(eta0=[0.003, 0.01, 0.03], alpha=[1e-5, 0.03, 0.3]),
                average=True,
            ),
            Exact("Ridge", Ridge, each(alpha=[1, 10, 100])),
        ],
        "ratings": [
            ByEpoch(
                "FactorizationMachineRegressor",
                FactorizationMachineRegressor,
                each(
                    learning_rate=[0.003, 0.005],
                    alpha_factors=[1e-4, 1.5e-4],
                    n_factors=[16, 32],
                ),
                alpha=2e-5,
                init_scale=0.02,
                average=800_000,  # samples: from the eleventh epoch on
                **ours,
            ),
            SurpriseSVD(
                "SVD with SGD (surprise)",
                each(lr_all=[0.005, 0.01], reg_all=[0.05, 0.1], n_factors=[20, 100]),
            ),
            MyFM("Bayesian FM (myfm)", each(rank=[8, 16])),
        ],
        "mlp": [
            ByEpoch(
                "RMSpropMLPClassifier",
                RMSpropMLPClassifier,
                each(learning_rate_init=rates),
                **wide,
            ),
            ByEpoch(
                "MLPClassifier, adam",
                MLPClassifier,
                each(learning_rate_init=rates),
                **wide,
            ),
        ],
    }
