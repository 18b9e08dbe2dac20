"""What the tests of the estimators share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array, random_array

Array = np.ndarray[Any, Any]


def sparse_problem(
    n_samples: int = 120,
    n_features: int = 60,
    n_classes: int = 3,
    dtype: Any = np.float64,
) -> tuple[csr_array, Array]:
    """Return samples with few features each, and classes that depend on them."""
    rng = np.random.default_rng(8)
    X = random_array((n_samples, n_features), density=0.1, format="csr", rng=rng)
    scores = X @ rng.normal(size=(n_features, n_classes))
    return csr_array(X.astype(dtype)), scores.argmax(axis=1)


def assert_same_model(one: Any, other: Any) -> None:
    assert_array_equal(one.coef_, other.coef_)
    assert_array_equal(one.intercept_, other.intercept_)
    assert one.coef_.dtype == other.coef_.dtype
    assert one.loss_curve_ == other.loss_curve_
