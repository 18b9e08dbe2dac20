"""Schedules: the formulas, the exact steps where they turn, refusals, configs."""

import copy
import json
import math
import pickle
import re
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rmsprop_fast.schedules import (
    CosineDecay,
    CosineDecayRestarts,
    ExponentialDecay,
    InverseTimeDecay,
    LearningRateSchedule,
    PiecewiseConstantDecay,
    PolynomialDecay,
    deserialize,
    serialize,
)

# One of each, as its class and the least it needs.
REQUIRED = {
    ExponentialDecay: {
        "initial_learning_rate": 0.1,
        "decay_steps": 100,
        "decay_rate": 0.5,
    },
    InverseTimeDecay: {
        "initial_learning_rate": 0.1,
        "decay_steps": 100,
        "decay_rate": 0.5,
    },
    PolynomialDecay: {"initial_learning_rate": 0.1, "decay_steps": 100},
    PiecewiseConstantDecay: {"boundaries": [100, 200], "values": [0.3, 0.2, 0.1]},
    CosineDecay: {"initial_learning_rate": 0.1, "decay_steps": 100},
    CosineDecayRestarts: {"initial_learning_rate": 0.1, "first_decay_steps": 100},
}
LAST_STEP = 2**63 - 1  # the largest int64, and so the largest `iterations`

# Rounding: a rate is a handful of operations of at most 2**-53 relative error each,
# and pow is not exactly monotone; 2**-45 is 256 such errors.
ROUNDING = 2.0**-45


@pytest.fixture(params=REQUIRED, ids=lambda cls: cls.__name__)
def schedule(request):
    return request.param(**REQUIRED[request.param])


rates = st.floats(1e-6, 1e3)
any_rates = st.just(0.0) | rates
counts = st.integers(1, 10**5)
steps = st.integers(0, 10**6)
names = st.none() | st.text(max_size=3)
# Strictly increasing boundaries, and one value more.
pieces = st.sets(st.integers(0, 10**6), max_size=5).flatmap(
    lambda chosen: st.tuples(
        st.just(sorted(chosen)),
        st.lists(any_rates, min_size=len(chosen) + 1, max_size=len(chosen) + 1),
    )
)
schedules = st.one_of(
    st.builds(
        ExponentialDecay, any_rates, counts, st.floats(0, 1), st.booleans(), names
    ),
    st.builds(InverseTimeDecay, any_rates, counts, any_rates, st.booleans(), names),
    st.builds(
        PolynomialDecay,
        any_rates,
        counts,
        any_rates,
        st.floats(0, 4),
        st.booleans(),
        names,
    ),
    st.builds(lambda p, name: PiecewiseConstantDecay(*p, name), pieces, names),
    st.builds(
        CosineDecay,
        any_rates,
        counts,
        st.floats(0, 1),
        names,
        st.none() | any_rates,
        st.integers(0, 10**5),
    ),
    st.builds(
        CosineDecayRestarts,
        any_rates,
        counts,
        st.floats(1, 4),
        st.floats(0, 1),
        st.floats(0, 1),
        names,
    ),
)


# --- ExponentialDecay ----------------------------------------------------------------


def test_exponential_decay_follows_the_formula_between_multiples():
    # 0.8 * 0.25**(step / 10): half a period is a factor sqrt(0.25) = 0.5.
    schedule = ExponentialDecay(0.8, 10, 0.25)
    assert [schedule(s) for s in (0, 5, 10, 15)] == [0.8, 0.4, 0.2, 0.1]


def test_exponential_staircase_changes_at_multiples_only():
    # Powers of two, so exact: 1, 1/4, 1/16 from steps 0, 10, 20 on.
    schedule = ExponentialDecay(1.0, 10, 0.25, staircase=True)
    assert [schedule(s) for s in (0, 9, 10, 19, 20)] == [1, 1, 0.25, 0.25, 0.0625]


def test_exponential_decay_underflows_to_zero_at_a_huge_step():
    # 0.5**1e9 is below the smallest double, 2**-1074.
    assert ExponentialDecay(1.0, 1, 0.5)(10**9) == 0.0


def test_exponential_growth_is_a_rate_range_sweep():
    # Doubles every step: 2**-10 * 2**10 = 1.
    assert ExponentialDecay(2.0**-10, 1, 2.0)(10) == 1.0


def test_exponential_growth_beyond_a_float_is_refused():
    # 2.0**1024 is the first power of two that a double cannot hold.
    schedule = ExponentialDecay(1.0, 1, 2.0)
    assert schedule(1023) == 2.0**1023
    with pytest.raises(
        ValueError, match=r"^learning rate at step 1024 must be finite, got inf$"
    ):
        schedule(1024)


def test_exponential_decay_of_rate_zero_keeps_the_first_step():
    # 0**0 = 1, 0**p = 0 for p > 0.
    schedule = ExponentialDecay(0.1, 10, 0.0)
    assert (schedule(0), schedule(1)) == (0.1, 0.0)


@given(initial=rates, n=counts, rate=st.floats(0, 1), step=steps, later=steps)
def test_exponential_decay_never_rises(initial, n, rate, step, later):
    schedule = ExponentialDecay(initial, n, rate)
    first, second = schedule(min(step, later)), schedule(max(step, later))
    assert 0.0 <= second * (1 - ROUNDING) <= first <= initial


# --- InverseTimeDecay ----------------------------------------------------------------


def test_inverse_time_decay_follows_the_formula_between_multiples():
    # 1 / (1 + 2 * step / 4) = 1 / (1 + step / 2).
    schedule = InverseTimeDecay(1.0, 4, 2.0)
    assert [schedule(s) for s in (0, 2, 4, 6)] == [1, 1 / 2, 1 / 3, 1 / 4]


def test_inverse_time_staircase_changes_at_multiples_only():
    # 1 / (1 + floor(step / 4)).
    schedule = InverseTimeDecay(1.0, 4, 1.0, staircase=True)
    assert [schedule(s) for s in (0, 3, 4, 7, 8)] == [1, 1, 1 / 2, 1 / 2, 1 / 3]


@given(initial=rates, n=counts, rate=any_rates, step=steps, later=steps)
def test_inverse_time_decay_never_rises(initial, n, rate, step, later):
    # Division, multiplication and addition round monotonely: no allowance needed.
    schedule = InverseTimeDecay(initial, n, rate)
    first, second = schedule(min(step, later)), schedule(max(step, later))
    assert 0.0 < second <= first <= initial


# --- PolynomialDecay -----------------------------------------------------------------


def test_polynomial_decay_follows_the_formula_and_stays_at_the_end():
    # (1 - 0.5) * (1 - step/4)**2 + 0.5; at step 2: 0.5 * 0.25 + 0.5 = 0.625.
    schedule = PolynomialDecay(1.0, 4, end_learning_rate=0.5, power=2.0)
    assert [schedule(s) for s in (0, 2, 4, 5, LAST_STEP)] == [1, 0.625, 0.5, 0.5, 0.5]


def test_polynomial_decay_ends_at_a_ten_thousandth_by_default():
    assert PolynomialDecay(0.1, 10)(10) == 0.0001


def test_polynomial_cycle_starts_at_the_initial_rate():
    # ceil(0 / N) would be 0 periods, and 0 / 0; step 0 counts as the first period.
    assert PolynomialDecay(1.0, 4, end_learning_rate=0.5, cycle=True)(0) == 1.0


def test_polynomial_cycle_stretches_the_decay_to_the_next_multiple():
    # N = 4 * ceil(step / 4). Step 4: 1 - 4/4 = 0. Step 5: 1 - 5/8 = 3/8. Step 6: 1/4.
    # Step 8: 0. Step 9: 1 - 9/12 = 1/4.
    schedule = PolynomialDecay(1.0, 4, end_learning_rate=0.0, cycle=True)
    assert [schedule(s) for s in (2, 4, 5, 6, 8, 9)] == [0.5, 0, 0.375, 0.25, 0, 0.25]


@given(period=st.floats(0.01, 100), step=steps)
def test_polynomial_cycle_of_a_fractional_period_stays_real(period, step):
    # Rounding can put step above the next multiple; 1 - p must not become negative.
    rate = PolynomialDecay(1.0, period, 0.5, power=0.5, cycle=True)(step)
    assert 0.5 <= rate <= 1.0


def test_polynomial_decay_to_a_higher_rate_warms_up():
    # (0 - 1) * (1 - step/4) + 1 = step/4.
    schedule = PolynomialDecay(0.0, 4, end_learning_rate=1.0)
    assert [schedule(s) for s in (0, 1, 3, 4)] == [0, 0.25, 0.75, 1]


@given(
    initial=any_rates,
    end=any_rates,
    n=counts,
    power=st.floats(0, 4),
    cycle=st.booleans(),
    step=steps,
)
def test_polynomial_decay_stays_between_its_ends(initial, end, n, power, cycle, step):
    rate = PolynomialDecay(initial, n, end, power, cycle)(step)
    slack = ROUNDING * max(initial, end)
    assert min(initial, end) - slack <= rate <= max(initial, end) + slack


@given(initial=rates, n=counts, power=st.floats(0, 4), step=steps, later=steps)
def test_polynomial_decay_never_rises_without_cycle(initial, n, power, step, later):
    schedule = PolynomialDecay(initial, n, 0.0, power)
    first, second = schedule(min(step, later)), schedule(max(step, later))
    assert second * (1 - ROUNDING) <= first


# --- PiecewiseConstantDecay ----------------------------------------------------------


def test_piecewise_constant_keeps_the_earlier_value_at_a_boundary():
    schedule = PiecewiseConstantDecay([3, 5], [1.0, 0.5, 0.25])
    assert [schedule(s) for s in (0, 3, 4, 5, 6)] == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_piecewise_constant_takes_a_boundary_between_two_steps():
    schedule = PiecewiseConstantDecay([3.5], [1.0, 0.5])
    assert (schedule(3), schedule(4)) == (1.0, 0.5)


def test_piecewise_constant_without_boundaries_is_constant():
    schedule = PiecewiseConstantDecay([], [0.5])
    assert (schedule(0), schedule(LAST_STEP)) == (0.5, 0.5)


def test_piecewise_constant_does_not_see_later_changes_of_its_lists():
    boundaries, values = [3], [1.0, 0.5]
    schedule = PiecewiseConstantDecay(boundaries, values)
    boundaries[0], values[0] = 0, 7.0
    assert schedule(3) == 1.0


@given(pieces, steps)
def test_piecewise_constant_equals_a_linear_search(piece, step):
    boundaries, values = piece
    passed = sum(step > boundary for boundary in boundaries)
    assert PiecewiseConstantDecay(boundaries, values)(step) == values[passed]


# --- CosineDecay ---------------------------------------------------------------------


def test_cosine_decay_hits_its_exact_points():
    # cos(0) = 1, cos(pi) = -1; with alpha 1/4 the middle is (1 + 1/4) / 2.
    schedule = CosineDecay(1.0, 10, alpha=0.25)
    assert (schedule(0), schedule(10), schedule(11)) == (1.0, 0.25, 0.25)
    assert schedule(5) == pytest.approx(0.625, rel=ROUNDING)


def test_cosine_decay_follows_the_half_angle_formula():
    # (1 + cos x) / 2 = cos(x / 2)**2, another way to the same number. One third of
    # the way, x = pi/3: cos(pi/6)**2 = 3/4; two thirds: cos(pi/3)**2 = 1/4.
    schedule = CosineDecay(2.0, 9)
    assert schedule(3) == pytest.approx(2.0 * 3 / 4, rel=ROUNDING)
    assert schedule(6) == pytest.approx(2.0 * 1 / 4, rel=ROUNDING)


def test_cosine_warmup_is_a_straight_line_to_its_target():
    # 0.5 + (2.5 - 0.5) * step / 4.
    schedule = CosineDecay(0.5, 10, warmup_target=2.5, warmup_steps=4)
    assert [schedule(s) for s in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.5]


def test_cosine_decay_counts_from_the_end_of_the_warmup():
    schedule = CosineDecay(0.5, 10, 0.25, warmup_target=2.0, warmup_steps=4)
    # From 2 to 2 * 0.25 during steps 4 to 14; the last but one step is not there yet.
    assert schedule(4) == 2.0
    assert schedule(13) > 0.5
    assert (schedule(14), schedule(15)) == (0.5, 0.5)


def test_cosine_decay_without_target_ignores_warmup_steps():
    # Keras: "Setting to None will skip warmup".
    schedule = CosineDecay(1.0, 10, warmup_steps=4)
    assert [schedule(s) for s in (0, 10)] == [1.0, 0.0]


def test_cosine_warmup_of_no_steps_starts_at_the_target():
    assert CosineDecay(0.5, 10, warmup_target=2.0)(0) == 2.0


@given(
    initial=any_rates, target=any_rates, warmup=counts, n=counts, alpha=st.floats(0, 1)
)
def test_cosine_decay_is_continuous_at_the_end_of_the_warmup(
    initial, target, warmup, n, alpha
):
    schedule = CosineDecay(initial, n, alpha, warmup_target=target, warmup_steps=warmup)
    # One step before: one warm-up increment away. One step after: cos(x) >= 1 - x**2/2
    # bounds what the cosine can lose.
    slack = ROUNDING * max(initial, target)
    increment = abs(target - initial) / warmup
    loss = target * (math.pi / n) ** 2 / 4
    assert schedule(warmup) == target
    assert abs(target - schedule(warmup - 1)) <= increment + slack
    assert -slack <= target - schedule(warmup + 1) <= loss + slack


@given(initial=rates, n=counts, alpha=st.floats(0, 1), step=steps, later=steps)
def test_cosine_decay_never_rises_and_never_goes_below_alpha(
    initial, n, alpha, step, later
):
    schedule = CosineDecay(initial, n, alpha)
    first, second = schedule(min(step, later)), schedule(max(step, later))
    slack = ROUNDING * initial
    assert alpha * initial - slack <= second <= first + slack <= initial + 2 * slack


# --- CosineDecayRestarts -------------------------------------------------------------


def period_of(step, first, t_mul):
    """Walk through the periods in exact arithmetic: restarts, part of the last past."""
    start, length, restarts = Fraction(0), Fraction(first), 0
    while step >= start + length:
        start, length, restarts = start + length, length * t_mul, restarts + 1
    return restarts, (step - start) / length


def test_restarts_double_their_period_by_default():
    # Periods of 10, 20, 40: restarts at 10, 30, 70. Middles at 5, 20, 50.
    schedule = CosineDecayRestarts(1.0, 10)
    assert [schedule(s) for s in (0, 10, 30, 70)] == [1.0] * 4
    for step in (5, 20, 50):
        assert schedule(step) == pytest.approx(0.5, rel=ROUNDING)


def test_restarts_scale_the_wave_but_not_the_floor():
    # 2 * ((1 - 1/4) * (1/2)**i + 1/4): 2, 1.25, 0.875. Keras scales the wave by m_mul,
    # not alpha: a step before the restart, every period is close to 2 * 1/4.
    schedule = CosineDecayRestarts(2.0, 1000, m_mul=0.5, alpha=0.25)
    assert [schedule(s) for s in (0, 1000, 3000)] == [2.0, 1.25, 0.875]
    # One step of 1000 before the end the wave is below (pi / 1000)**2 / 4 < 3e-6.
    for step in (999, 2999, 6999):
        assert 0.5 < schedule(step) < 0.5 + 2 * 3e-6


def test_restarts_of_equal_periods_come_at_every_multiple():
    # i = step // 7: exact for any step, where a division of floats might not be.
    schedule = CosineDecayRestarts(1.0, 7, t_mul=1.0, m_mul=0.5)
    assert [schedule(7 * i) for i in range(50)] == [0.5**i for i in range(50)]


def test_a_period_of_one_step_restarts_at_every_step():
    schedule = CosineDecayRestarts(1.0, 1, t_mul=1.0)
    assert {schedule(s) for s in range(1000)} == {1.0}


def test_restarts_of_period_ratio_a_tenth_more_come_where_decimals_say():
    # 10 + 11 = 21, although 1.1 in binary is a little more than 11/10.
    schedule = CosineDecayRestarts(1.0, 10, t_mul=1.1)
    assert schedule(20) < 0.05 < 1.0 == schedule(21)


def test_restarts_of_a_period_ratio_close_to_one_come_on_time():
    # 10**4 * (1 + 1.0001) = 20001.
    schedule = CosineDecayRestarts(1.0, 10**4, t_mul=1.0001)
    assert schedule(20000) < 1e-6 < 1.0 == schedule(20001)


@pytest.mark.parametrize("digits", range(1, 9))
def test_restarts_are_accurate_for_a_period_ratio_close_to_one(digits):
    # (t_mul**i - 1) / (t_mul - 1), as written, would lose this many digits of 16.
    t_mul = 1 + Fraction(1, 10**digits)
    schedule = CosineDecayRestarts(1.0, 100, t_mul=float(t_mul))
    for step in range(500):
        _, p = period_of(step, 100, t_mul)
        expected = math.cos(math.pi * p / 2) ** 2
        assert schedule(step) == pytest.approx(expected, abs=1e-12)


def test_restarts_of_a_period_ratio_next_to_one_are_those_of_one():
    # Five periods of 100 differ by less than 1e-12 of a step.
    next_to_one = CosineDecayRestarts(1.0, 100, t_mul=math.nextafter(1.0, 2.0))
    equal = CosineDecayRestarts(1.0, 100, t_mul=1.0)
    for step in range(500):
        assert next_to_one(step) == pytest.approx(equal(step), abs=1e-12)


def test_a_restart_between_two_steps_is_seen_by_the_later_one():
    # Periods 1.5, 3, 6: restarts at 1.5, 4.5. Step 1: p = 2/3. Step 2: p = 0.5/3.
    # Step 5: p = 0.5/6. And (1 + cos(pi p)) / 2 = cos(pi p / 2)**2.
    schedule = CosineDecayRestarts(1.0, 1.5)
    for step, p in ((1, 2 / 3), (2, 0.5 / 3), (5, 0.5 / 6)):
        assert schedule(step) == pytest.approx(math.cos(math.pi * p / 2) ** 2)


@given(first=st.integers(1, 1000), t_mul=st.integers(2, 10), data=st.data())
def test_a_restart_step_has_the_full_rate_and_the_step_before_has_not(
    first, t_mul, data
):
    # Period i is first * t_mul**i steps long; stay below 10**12 steps.
    last = int(math.log(10**12 / first, t_mul)) - 1
    i = data.draw(st.integers(1, last))
    start = sum(first * t_mul**k for k in range(i))
    schedule = CosineDecayRestarts(1.0, first, float(t_mul), m_mul=0.5)
    assert schedule(start) == 0.5**i
    # The step before is a whole step from the end of period i - 1, of `length` steps:
    # the wave is (1 - cos(pi / length)) / 2 = sin(pi / (2 length))**2.
    length = first * t_mul ** (i - 1)
    expected = 0.5 ** (i - 1) * math.sin(math.pi / (2 * length)) ** 2
    # Rounding of start, 1e-12 of itself at most, over the length, at most
    # t_mul / (t_mul - 1) <= 2 of it: 2e-12 of a period, pi times that in the cosine.
    assert schedule(start - 1) == pytest.approx(expected, abs=1e-11)


@given(
    first=st.integers(1, 1000),
    tenths=st.integers(10, 40),
    m_mul=st.floats(0, 1),
    alpha=st.floats(0, 1),
    step=st.integers(0, 2000),
)
def test_restarts_equal_a_walk_through_the_periods(first, tenths, m_mul, alpha, step):
    i, p = period_of(step, first, Fraction(tenths, 10))
    expected = (1 - alpha) * m_mul**i * math.cos(math.pi * p / 2) ** 2 + alpha
    rate = CosineDecayRestarts(1.0, first, tenths / 10, m_mul, alpha)(step)
    # p carries the rounding of a start, a few 2**-53 of 2000 steps over a period of
    # at least one step.
    assert rate == pytest.approx(expected, abs=1e-10)


def test_restarts_that_grow_beyond_a_float_are_refused():
    # One restart per step, each twice as high: 2.0**1024 is too large.
    schedule = CosineDecayRestarts(1.0, 1, t_mul=1.0, m_mul=2.0)
    assert schedule(1023) == 2.0**1023
    with pytest.raises(
        ValueError, match=r"^learning rate at step 1024 must be finite, got inf$"
    ):
        schedule(1024)


# --- Steps ---------------------------------------------------------------------------


@given(schedules, steps | st.integers(0, LAST_STEP))
def test_every_rate_is_a_finite_float_at_least_zero(schedule, step):
    rate = schedule(step)
    assert type(rate) is float
    assert 0.0 <= rate < math.inf


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_a_numpy_integer_is_a_step(schedule, kind):
    assert schedule(kind(150)) == schedule(150)


@given(schedules, st.integers(0, 2**53))
def test_a_whole_float_is_the_step_of_its_integer(schedule, step):
    # 2**53 is where float64 stops having every integer.
    rate = schedule(float(step))
    assert type(rate) is float
    assert rate == schedule(step)


@given(schedules, st.floats(0, 10**6))
def test_a_step_with_a_fraction_has_a_finite_rate(schedule, step):
    assert 0.0 <= schedule(step) < math.inf


def test_a_fraction_of_a_step_lies_on_the_line_between_its_neighbours():
    # 1 - step / 4 at 0.5: 7/8.
    assert PolynomialDecay(1.0, 4, end_learning_rate=0.0)(0.5) == 0.875


shapes = st.sampled_from([(), (0,), (5,), (2, 3), (3, 0, 2)])


@given(schedules, st.data())
def test_an_array_of_steps_gives_the_bits_of_its_elements(schedule, data):
    dtype = data.draw(
        st.sampled_from(["int64", "uint8", "int32", "float64", "float32"])
    )
    most = min(np.iinfo(dtype).max if "int" in dtype else 10**6, LAST_STEP)
    element = (
        st.floats(0, most, width=int(dtype[-2:]))
        if dtype.startswith("float")
        else st.integers(0, most)
    )
    array = data.draw(arrays(dtype, data.draw(shapes), elements=element))
    rates = schedule(array)
    assert type(rates) is np.ndarray
    assert (rates.dtype, rates.shape) == (np.float64, array.shape)
    expected = [schedule(step) for step in array.ravel()]
    np.testing.assert_array_equal(rates.ravel(), np.array(expected, np.float64))


def test_a_range_and_a_list_are_arrays_of_steps(schedule):
    expected = [schedule(0), schedule(1), schedule(2)]
    assert schedule(range(3)).tolist() == expected
    assert schedule([0, 1, 2]).tolist() == expected
    assert schedule([]).shape == (0,)


def test_an_array_of_steps_is_read_in_its_own_layout(schedule):
    steps = np.arange(24).reshape(4, 6).T[::-2]
    np.testing.assert_array_equal(schedule(steps), schedule(steps.copy()))


@pytest.mark.parametrize(
    "step",
    [True, "1", None, 1j, [True], ["1"], [None], np.array([1j]), [2**64]],
    ids=repr,
)
def test_a_step_that_is_no_real_number_is_refused(schedule, step):
    message = "step must be a real number or an array of them, got "
    with pytest.raises(TypeError, match=f"^{message}{re.escape(repr(step))}$"):
        schedule(step)


@pytest.mark.parametrize(
    "step", [-1, 2**63, np.int64(-1), -0.5, math.nan, math.inf], ids=repr
)
def test_a_step_out_of_range_is_refused(schedule, step):
    message = re.escape(f"step must be in [0, 2**63), got {step!r}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        schedule(step)
    shown = re.escape(repr(np.asarray(step).item()))
    with pytest.raises(ValueError, match=rf"^step must be in .*, got {shown}$"):
        schedule(np.array([step, step]))


# --- Arguments -----------------------------------------------------------------------

# Every rule: an argument of a class, what breaks it, and the error.
AT_LEAST_ZERO = [
    (-0.1, ValueError, "must be finite and >= 0, got -0.1"),
    (math.inf, ValueError, "must be finite and >= 0, got inf"),
    (math.nan, ValueError, "must be finite and >= 0, got nan"),
    ("0.1", TypeError, "must be a real number, got '0.1'"),
]
POSITIVE = [
    (0, ValueError, "must be finite and > 0, got 0"),
    (-1, ValueError, "must be finite and > 0, got -1"),
    (math.inf, ValueError, "must be finite and > 0, got inf"),
    (None, TypeError, "must be a real number, got None"),
    (True, TypeError, "must be a real number, got True"),
]
FRACTION = [
    (1.5, ValueError, "must be in [0, 1], got 1.5"),
    (-0.5, ValueError, "must be in [0, 1], got -0.5"),
    (None, TypeError, "must be a real number, got None"),
]
GROWTH = [
    (0.9, ValueError, "must be >= 1, got 0.9"),
    (math.inf, ValueError, "must be finite, got inf"),
    ("2", TypeError, "must be a real number, got '2'"),
]
FLAG = [
    (1, TypeError, "must be a bool, got 1"),
    ("no", TypeError, "must be a bool, got 'no'"),
]
NAME = [(3, TypeError, "must be a str, got 3")]
BOUNDARIES = [
    (100, TypeError, "must be a sequence, got 100"),
    ([200, 100], ValueError, "must be strictly increasing, got [200, 100]"),
    ([100, 100], ValueError, "must be strictly increasing, got [100, 100]"),
    ([-1, 100], ValueError, "[0] must be finite and >= 0, got -1"),
    ([100, "200"], TypeError, "[1] must be a real number, got '200'"),
]
VALUES = [
    (None, TypeError, "must be a sequence, got None"),
    (
        [0.2, 0.1],
        ValueError,
        "must have 3 elements, one more than boundaries, got 2",
    ),
    (
        [0.4, 0.3, 0.2, 0.1],
        ValueError,
        "must have 3 elements, one more than boundaries, got 4",
    ),
    ([0.3, 0.2, -0.1], ValueError, "[2] must be finite and >= 0, got -0.1"),
]
REFUSALS = [
    (cls, argument, *refusal)
    for cls, arguments in {
        ExponentialDecay: {
            "initial_learning_rate": AT_LEAST_ZERO,
            "decay_steps": POSITIVE,
            "decay_rate": AT_LEAST_ZERO,
            "staircase": FLAG,
            "name": NAME,
        },
        InverseTimeDecay: {
            "initial_learning_rate": AT_LEAST_ZERO,
            "decay_steps": POSITIVE,
            "decay_rate": AT_LEAST_ZERO,
            "staircase": FLAG,
            "name": NAME,
        },
        PolynomialDecay: {
            "initial_learning_rate": AT_LEAST_ZERO,
            "decay_steps": POSITIVE,
            "end_learning_rate": AT_LEAST_ZERO,
            "power": AT_LEAST_ZERO,
            "cycle": FLAG,
            "name": NAME,
        },
        PiecewiseConstantDecay: {
            "boundaries": BOUNDARIES,
            "values": VALUES,
            "name": NAME,
        },
        CosineDecay: {
            "initial_learning_rate": AT_LEAST_ZERO,
            "decay_steps": POSITIVE,
            "alpha": FRACTION,
            "name": NAME,
            "warmup_target": AT_LEAST_ZERO,
            "warmup_steps": AT_LEAST_ZERO,
        },
        CosineDecayRestarts: {
            "initial_learning_rate": AT_LEAST_ZERO,
            "first_decay_steps": POSITIVE,
            "t_mul": GROWTH,
            "m_mul": AT_LEAST_ZERO,
            "alpha": FRACTION,
            "name": NAME,
        },
    }.items()
    for argument, refusals in arguments.items()
    for refusal in refusals
]


@pytest.mark.parametrize(
    ("cls", "argument", "value", "error", "message"),
    REFUSALS,
    ids=[f"{cls.__name__}-{name}-{value!r}" for cls, name, value, *_ in REFUSALS],
)
def test_an_argument_out_of_its_range_is_refused(cls, argument, value, error, message):
    arguments = {**REQUIRED[cls], argument: value}
    # The name comes first; an element's index follows it without a space.
    pattern = f"^{argument} ?{re.escape(message)}$"
    with pytest.raises(error, match=pattern):
        cls(**arguments)


def test_every_argument_has_its_refusals(schedule):
    tried = {argument for cls, argument, *_ in REFUSALS if cls is type(schedule)}
    assert tried == set(schedule.get_config())


def test_an_unknown_argument_is_refused(schedule):
    cls = type(schedule)
    with pytest.raises(TypeError, match="unexpected keyword argument 'decay'"):
        cls(**REQUIRED[cls], decay=0.1)


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (ExponentialDecay, "initial_learning_rate decay_steps decay_rate staircase"),
        (InverseTimeDecay, "initial_learning_rate decay_steps decay_rate staircase"),
        (
            PolynomialDecay,
            "initial_learning_rate decay_steps end_learning_rate power cycle",
        ),
        (PiecewiseConstantDecay, "boundaries values"),
        (CosineDecay, "initial_learning_rate decay_steps alpha"),
        (CosineDecayRestarts, "initial_learning_rate first_decay_steps t_mul m_mul"),
    ],
)
def test_arguments_come_in_the_order_of_keras(cls, arguments):
    order = list(cls(**REQUIRED[cls]).get_config())
    assert order[: len(arguments.split())] == arguments.split()


# --- Configs -------------------------------------------------------------------------


def test_the_config_is_the_arguments_and_the_defaults_of_keras():
    assert CosineDecay(0.1, 100, warmup_target=0.5).get_config() == {
        "initial_learning_rate": 0.1,
        "decay_steps": 100,
        "alpha": 0.0,
        "name": None,
        "warmup_target": 0.5,
        "warmup_steps": 0,
    }
    assert CosineDecayRestarts(0.1, 100).get_config() == {
        "initial_learning_rate": 0.1,
        "first_decay_steps": 100,
        "t_mul": 2.0,
        "m_mul": 1.0,
        "alpha": 0.0,
        "name": None,
    }
    assert PolynomialDecay(0.1, 100).get_config() == {
        "initial_learning_rate": 0.1,
        "decay_steps": 100,
        "end_learning_rate": 0.0001,
        "power": 1.0,
        "cycle": False,
        "name": None,
    }


def test_the_config_keeps_an_integer_number_of_steps():
    assert repr(ExponentialDecay(1, 100, 1).get_config()["decay_steps"]) == "100"


def test_the_config_of_numpy_scalars_is_json():
    schedule = PiecewiseConstantDecay(np.array([1, 5]), np.float32([1, 0.5, 0.25]))
    assert json.dumps(schedule.get_config()) == (
        '{"boundaries": [1, 5], "values": [1.0, 0.5, 0.25], "name": null}'
    )


def test_changing_the_config_does_not_change_the_schedule(schedule):
    before = repr(schedule)
    config = schedule.get_config()
    for key, value in config.items():
        if isinstance(value, list):
            value[0] = 7
        config[key] = None
    assert repr(schedule) == before


@given(schedules, steps)
def test_serialize_json_deserialize_is_a_round_trip(schedule, step):
    config = json.loads(json.dumps(serialize(schedule)))
    copied = deserialize(config)
    assert type(copied) is type(schedule)
    assert copied == schedule
    assert copied(step) == schedule(step)


def test_serialize_gives_class_name_and_config():
    assert serialize(PiecewiseConstantDecay([5], [1.0, 0.5], "steps")) == {
        "class_name": "PiecewiseConstantDecay",
        "config": {"boundaries": [5], "values": [1.0, 0.5], "name": "steps"},
    }


def test_serialize_refuses_what_is_no_schedule():
    with pytest.raises(
        TypeError,
        match=r"^learning_rate_schedule must be a LearningRateSchedule, got 0\.1$",
    ):
        serialize(0.1)


def test_deserialize_reads_what_keras_3_writes():
    # keras 3.15, keras.optimizers.schedules.serialize(ExponentialDecay(1, 10, 0.25)).
    config = {
        "module": "keras.optimizers.schedules",
        "class_name": "ExponentialDecay",
        "config": {
            "initial_learning_rate": 1,
            "decay_steps": 10,
            "decay_rate": 0.25,
            "staircase": False,
            "name": "ExponentialDecay",
        },
        "registered_name": None,
    }
    # Half a period: sqrt(0.25).
    assert deserialize(config)(5) == 0.5


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (None, TypeError, "config must be a dict, got None"),
        ("CosineDecay", TypeError, "config must be a dict, got 'CosineDecay'"),
        (
            {"class_name": "CosineDecay"},
            ValueError,
            "config must have the keys 'class_name' and 'config', got ['class_name']",
        ),
        (
            {"config": {}},
            ValueError,
            "config must have the keys 'class_name' and 'config', got ['config']",
        ),
        (
            {"class_name": ["CosineDecay"], "config": {}},
            TypeError,
            "class_name must be a str, got ['CosineDecay']",
        ),
        (
            {"class_name": "StepDecay", "config": {}},
            ValueError,
            "Unknown decay: StepDecay",
        ),
        (
            {"class_name": "LearningRateSchedule", "config": {}},
            ValueError,
            "Unknown decay: LearningRateSchedule",
        ),
        (
            {"class_name": "CosineDecay", "config": [0.1, 100]},
            TypeError,
            "config must be a dict, got [0.1, 100]",
        ),
    ],
)
def test_a_malformed_config_is_refused(config, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        deserialize(config)


def test_a_config_that_lacks_an_argument_is_refused():
    config = {"class_name": "CosineDecay", "config": {"decay_steps": 10}}
    with pytest.raises(TypeError, match="argument: 'initial_learning_rate'"):
        deserialize(config)


# --- Schedules of the caller's own ---------------------------------------------------


class Halving(LearningRateSchedule):
    def __init__(self, start):
        self.start = start

    def __call__(self, step):
        return self.start * 0.5**step

    def get_config(self):
        return {"start": self.start}

    @classmethod
    def from_config(cls, config):
        return cls(config.pop("start"))  # changes what it gets, as Keras's own may


def test_a_schedule_of_the_callers_own_makes_a_round_trip():
    copied = deserialize(serialize(Halving(2.0)), custom_objects={"Halving": Halving})
    # 2 * 0.5**3.
    assert copied(3) == 0.25


def test_a_schedule_of_the_callers_own_is_unknown_by_default():
    with pytest.raises(ValueError, match=r"^Unknown decay: Halving$"):
        deserialize(serialize(Halving(2.0)))


def test_deserialize_does_not_change_its_input():
    config = {"class_name": "Halving", "config": {"start": 2.0}}
    before = copy.deepcopy(config)
    deserialize(config, custom_objects={"Halving": Halving})
    assert config == before


def test_a_custom_object_comes_before_the_built_in_of_its_name():
    class Own(CosineDecay):
        pass

    copied = deserialize(serialize(CosineDecay(1.0, 10)), {"CosineDecay": Own})
    assert type(copied) is Own


def test_a_custom_object_that_is_no_schedule_class_is_refused():
    config = {"class_name": "Halving", "config": {}}
    with pytest.raises(
        TypeError,
        match=r"^custom_objects\['Halving'\] must be a LearningRateSchedule class, "
        r"got <built-in function abs>$",
    ):
        deserialize(config, custom_objects={"Halving": abs})


def test_the_base_cannot_be_made():
    with pytest.raises(TypeError, match=r"abstract method '?__call__"):
        LearningRateSchedule()


def test_a_schedule_without_config_says_what_it_lacks():
    class Constant(LearningRateSchedule):
        def __call__(self, step):
            return 0.1

    with pytest.raises(NotImplementedError, match=r"^Constant must define get_config$"):
        serialize(Constant())


# --- As objects ----------------------------------------------------------------------


def test_repr_shows_the_configuration():
    assert repr(ExponentialDecay(0.1, 100, 0.5)) == (
        "ExponentialDecay(initial_learning_rate=0.1, decay_steps=100, "
        "decay_rate=0.5, staircase=False, name=None)"
    )


@given(schedules)
def test_repr_is_the_expression_that_makes_the_schedule(schedule):
    assert eval(repr(schedule)) == schedule


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]
)
def test_a_copy_and_a_pickle_are_the_same_schedule(schedule, duplicate):
    copied = duplicate(schedule)
    assert copied is not schedule
    assert copied == schedule
    assert copied(150) == schedule(150)


def test_a_schedule_cannot_change(schedule):
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'name'"):
        schedule.name = "other"
