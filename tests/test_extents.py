"""Which addresses are taken: the union of ranges, however they are added."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmsprop_fast.cpu._extents import Extents

ADDRESSES = range(64)

ranges = st.tuples(st.sampled_from(ADDRESSES), st.sampled_from(ADDRESSES))


def taken(extents: Extents) -> set[int]:
    return {k for k in ADDRESSES if extents.may_touch(k, k + 1)}


@given(calls=st.lists(st.lists(ranges, max_size=12), max_size=6))
def test_extents_are_the_union_of_what_was_added(calls) -> None:
    extents, one_by_one, expected = Extents(), Extents(), set()
    for bounds in calls:
        extents.add_all(bounds)
        for low, high in bounds:
            one_by_one.add(low, high)
            expected |= set(range(low, high))
        assert taken(extents) == taken(one_by_one) == expected


@given(bounds=st.lists(ranges), low=st.integers(0, 63), high=st.integers(0, 63))
def test_a_range_touches_what_it_shares_an_address_with(bounds, low, high) -> None:
    extents = Extents()
    extents.add_all(bounds)
    assert extents.may_touch(low, high) == bool(taken(extents) & {*range(low, high)})


@pytest.mark.parametrize("n_before", [0, 1000], ids=["merged", "inserted"])
def test_an_error_adds_nothing(n_before: int) -> None:
    extents = Extents()
    extents.add_all([(100 + 2 * k, 101 + 2 * k) for k in range(n_before)])
    with pytest.raises(OverflowError):
        extents.add_all([(5, 9), (-1, 3)])
    assert taken(extents) == set()


@pytest.mark.parametrize("n_calls", [1, 1000, 100_000])
def test_many_ranges_take_little_more_than_linear_time(n_calls: int) -> None:
    n = 100_000
    # Each second place first: none is at the end, where it would be cheap.
    order = [*range(0, n, 2), *range(1, n, 2)]
    bounds = [(16 * k, 16 * k + 8) for k in order]
    extents = Extents()
    start = time.perf_counter()
    for first in range(0, n, n // n_calls):
        extents.add_all(bounds[first : first + n // n_calls])
    # Milliseconds or a few seconds; a pass over all ranges for each call takes minutes.
    assert time.perf_counter() - start < 20
    assert extents.may_touch(16 * (n - 1) + 7, 16 * n)
    assert not extents.may_touch(8, 16)
