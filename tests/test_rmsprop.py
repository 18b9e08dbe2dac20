"""RMSprop: its constructor, its hyperparameters, when they act, its configuration."""

import copy
import inspect
import json
import re
from fractions import Fraction

import numpy as np
import pytest

from rmsprop_fast import RMSprop
from rmsprop_fast.schedules import (
    ExponentialDecay,
    LearningRateSchedule,
    PiecewiseConstantDecay,
)

# With rho and epsilon 0, rms is g*g and the increment lr*g/sqrt(g*g): a gradient of 1
# moves its variable by exactly the learning rate, where that is a power of two.
EXACT = {"rho": 0.0, "epsilon": 0.0}
HYPERPARAMETERS = ["learning_rate", "rho", "momentum", "epsilon", "decay"]
CLIPS = ["clipnorm", "clipvalue", "global_clipnorm"]


class Constant(LearningRateSchedule):
    """A schedule of the caller's."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return self.rate

    def get_config(self):
        return {"rate": self.rate}


class Reading:
    """A callable that counts its calls."""

    def __init__(self, value):
        self.value = value
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.value


def moves(opt, grads, start=8.0):
    """How far each step moves a variable of one element."""
    var = np.array([start])
    result = []
    for grad in grads:
        before = var[0]
        opt.apply_gradients([(np.array([grad]), var)])
        result.append(before - var[0])
    return result


# --- Constructor ----------------------------------------------------------------------


def test_the_signature_is_keras_plus_keywords():
    names = list(inspect.signature(RMSprop).parameters)
    assert names == (
        ["learning_rate", "rho", "momentum", "epsilon", "centered", "name"]
        + ["eps_in_sqrt", "num_threads", "kwargs"]
    )


def test_the_defaults_are_those_of_keras():
    parameters = inspect.signature(RMSprop).parameters.values()
    assert {p.name: p.default for p in parameters if p.default is not p.empty} == {
        "learning_rate": 0.001,
        "rho": 0.9,
        "momentum": 0.0,
        "epsilon": 1e-7,
        "centered": False,
        "name": "RMSprop",
        "eps_in_sqrt": True,
        "num_threads": None,
    }


def test_a_new_optimizer_has_the_defaults():
    opt = RMSprop()
    assert (opt.learning_rate, opt.rho, opt.momentum) == (0.001, 0.9, 0.0)
    assert (opt.epsilon, opt.centered, opt.eps_in_sqrt) == (1e-7, False, True)
    assert (opt.decay, opt.num_threads, opt.iterations) == (0.0, None, 0)
    assert (opt.clipnorm, opt.clipvalue, opt.global_clipnorm) == (None, None, None)


def test_six_arguments_are_positional_in_the_order_of_keras():
    opt = RMSprop(0.5, 0.25, 0.125, 0.0625, True, "mine")
    assert (opt.learning_rate, opt.rho, opt.momentum) == (0.5, 0.25, 0.125)
    assert (opt.epsilon, opt.centered) == (0.0625, True)
    assert opt.get_config()["name"] == "mine"


def test_a_seventh_positional_argument_is_a_type_error():
    with pytest.raises(TypeError, match="positional argument"):
        RMSprop(0.5, 0.25, 0.125, 0.0625, True, "mine", False)


@pytest.mark.parametrize("name", ["beta", "weight", "nesterov", "Lr"])
def test_an_unknown_keyword_is_a_type_error(name):
    match = f"Unexpected keyword argument passed to optimizer: {name}"
    with pytest.raises(TypeError, match=match):
        RMSprop(**{name: 0.5})


def test_the_keywords_of_keras_are_taken():
    opt = RMSprop(lr=0.5, decay=0.25, clipnorm=2, clipvalue=3)
    assert (opt.learning_rate, opt.decay) == (0.5, 0.25)
    assert (opt.clipnorm, opt.clipvalue) == (2.0, 3.0)
    assert RMSprop(global_clipnorm=4).global_clipnorm == 4.0


def test_lr_beats_learning_rate():
    assert RMSprop(0.5, lr=0.25).learning_rate == 0.25
    assert RMSprop(learning_rate=0.5, lr=0.25).lr == 0.25


@pytest.mark.parametrize("clip", CLIPS)
def test_a_clip_of_none_is_off(clip):
    assert getattr(RMSprop(**{clip: None}), clip) is None


def test_epsilon_none_is_the_default():
    assert RMSprop(epsilon=None).epsilon == 1e-7


def test_epsilon_zero_is_zero():
    assert RMSprop(epsilon=0).epsilon == 0.0
    assert moves(RMSprop(0.5, rho=0.0, epsilon=0), [4.0]) == [0.5]


@pytest.mark.parametrize("name", [None, ""], ids=repr)
def test_an_optimizer_without_a_name_is_called_after_its_class(name):
    assert RMSprop(name=name).get_config()["name"] == "RMSprop"


def test_a_name_must_be_text():
    with pytest.raises(TypeError, match="name must be a str, got 5"):
        RMSprop(name=5)


def test_the_repr_is_the_configuration():
    assert repr(RMSprop(0.5, clipnorm=2.0, name="mine")).startswith(
        "RMSprop(name='mine', clipnorm=2.0, learning_rate=0.5, decay=0.0, rho=0.9, "
    )


# --- Ranges and kinds, at construction and when set -----------------------------------

NUMBER, FRACTION = "finite and >= 0", r"in \[0, 1\]"
OUTSIDE = [
    (name, value, rule)
    for names, values, rule in [
        (["learning_rate", "epsilon", "decay"], [-1e-9, np.nan, np.inf], NUMBER),
        (["rho", "momentum"], [-1e-9, 1.0000001, np.nan, np.inf, -np.inf], FRACTION),
        (CLIPS, [-1e-9, np.nan, -np.inf], NUMBER),
    ]
    for name in names
    for value in values
]


@pytest.mark.parametrize(("name", "value", "rule"), OUTSIDE)
def test_a_value_outside_its_range_is_a_value_error_at_construction(name, value, rule):
    with pytest.raises(ValueError, match=f"{name} must be {rule}, got {value}"):
        RMSprop(**{name: value})


@pytest.mark.parametrize(("name", "value", "rule"), OUTSIDE)
def test_a_value_outside_its_range_is_a_value_error_when_set(name, value, rule):
    opt = RMSprop(**{name: 0.5})
    with pytest.raises(ValueError, match=f"{name} must be {rule}, got {value}"):
        setattr(opt, name, value)
    assert getattr(opt, name) == 0.5


def test_lr_is_checked_like_learning_rate():
    with pytest.raises(
        ValueError, match="learning_rate must be finite and >= 0, got -1"
    ):
        RMSprop(lr=-1)
    opt = RMSprop()
    with pytest.raises(
        ValueError, match="learning_rate must be finite and >= 0, got -1"
    ):
        opt.lr = -1
    with pytest.raises(
        TypeError, match="learning_rate must be a real number, got None"
    ):
        RMSprop(lr=None)


WRONG = {
    "text": "0.1",
    "bool": True,
    "complex": 1j,
    "list": [0.1],
    "0-d-array": np.array(0.1),
}
NOT_NUMBERS = [
    (name, value) for name in [*HYPERPARAMETERS, *CLIPS] for value in WRONG.values()
] + [(name, None) for name in HYPERPARAMETERS if name != "epsilon"]


@pytest.mark.parametrize(("name", "value"), NOT_NUMBERS)
def test_what_is_no_number_is_a_type_error_at_construction(name, value):
    match = f"{name} must be a real number, got {re.escape(repr(value))}"
    with pytest.raises(TypeError, match=match):
        RMSprop(**{name: value})


@pytest.mark.parametrize(("name", "value"), NOT_NUMBERS)
def test_what_is_no_number_is_a_type_error_when_set(name, value):
    opt = RMSprop(**{name: 0.5})
    match = f"{name} must be a real number, got {re.escape(repr(value))}"
    with pytest.raises(TypeError, match=match):
        setattr(opt, name, value)
    assert getattr(opt, name) == 0.5


@pytest.mark.parametrize(
    "value",
    [1, np.float32(0.5), np.float64(0.5), np.int64(1), Fraction(1, 2)],
    ids=repr,
)
@pytest.mark.parametrize("name", [*HYPERPARAMETERS, *CLIPS])
def test_any_real_number_is_kept_as_a_float(name, value):
    kept = getattr(RMSprop(**{name: value}), name)
    assert type(kept) is float
    assert kept == value


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("name", ["rho", "momentum"])
def test_the_ends_of_a_range_belong_to_it(name, value):
    assert getattr(RMSprop(**{name: value}), name) == value


@pytest.mark.parametrize("name", ["learning_rate", "epsilon", "decay", *CLIPS])
def test_zero_and_large_numbers_are_in_range(name):
    assert getattr(RMSprop(**{name: 0}), name) == 0.0
    assert getattr(RMSprop(**{name: 1e300}), name) == 1e300


@pytest.mark.parametrize("name", ["centered", "eps_in_sqrt"])
@pytest.mark.parametrize("value", [1, 0.0, None, "yes", np.array(True)], ids=repr)
def test_a_flag_must_be_a_bool(name, value):
    with pytest.raises(TypeError, match=f"{name} must be a bool"):
        RMSprop(**{name: value})
    opt = RMSprop()
    before = getattr(opt, name)
    with pytest.raises(TypeError, match=f"{name} must be a bool"):
        setattr(opt, name, value)
    assert getattr(opt, name) is before


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (0, ValueError, "num_threads must be >= 1, got 0"),
        (-2, ValueError, "num_threads must be >= 1, got -2"),
        (1.0, TypeError, "num_threads must be an integer, got 1.0"),
        ("2", TypeError, "num_threads must be an integer, got '2'"),
        (True, TypeError, "num_threads must be an integer, got True"),
        (2**31, ValueError, "num_threads must be"),  # OpenMP counts in C ints
    ],
    ids=["zero", "negative", "float", "text", "bool", "too-large"],
)
def test_a_wrong_number_of_threads_is_refused(value, error, match):
    with pytest.raises(error, match=match):
        RMSprop(num_threads=value)
    opt = RMSprop(num_threads=2)
    with pytest.raises(error, match=match):
        opt.num_threads = value
    assert opt.num_threads == 2


def test_both_norms_are_a_value_error_at_construction():
    match = r"global_clipnorm must be None when clipnorm is given.*1\.0.*2\.0"
    with pytest.raises(ValueError, match=match):
        RMSprop(clipnorm=1.0, global_clipnorm=2.0)
    assert RMSprop(clipnorm=1.0, global_clipnorm=None).clipnorm == 1.0
    assert RMSprop(clipvalue=1.0, global_clipnorm=2.0).clipvalue == 1.0


@pytest.mark.parametrize(
    ("first", "second"),
    [("clipnorm", "global_clipnorm"), ("global_clipnorm", "clipnorm")],
)
def test_both_norms_are_a_value_error_when_set(first, second):
    opt = RMSprop(**{first: 1.0})
    with pytest.raises(ValueError, match="global_clipnorm must be None when clipnorm"):
        setattr(opt, second, 2.0)
    assert (getattr(opt, first), getattr(opt, second)) == (1.0, None)
    setattr(opt, first, None)
    setattr(opt, second, 2.0)
    assert (getattr(opt, first), getattr(opt, second)) == (None, 2.0)


@pytest.mark.parametrize("name", ["rho", "momentum", "epsilon"])
def test_a_schedule_is_for_the_learning_rate_only(name):
    # A hyperparameter is a number or takes no argument; a schedule takes the step.
    with pytest.raises(TypeError, match=name):
        RMSprop(**{name: Constant(0.5)})


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nesterov"):
        RMSprop().nesterov  # noqa: B018


# --- What each hyperparameter does, from the next step on -----------------------------

# The first gradient is 1, so that rms is 1 with rho 0; the second one is 2. Each
# setting is followed by how far the second step then moves, in powers of two.
EFFECTS = {
    "none": ({}, 0.5),  # 0.5 * 2 / sqrt(4)
    "learning_rate": ({"learning_rate": 0.25}, 0.25),
    "lr": ({"lr": 0.25}, 0.25),
    "callable": ({"learning_rate": lambda: 0.25}, 0.25),
    "schedule": ({"learning_rate": PiecewiseConstantDecay([0], [1.0, 0.25])}, 0.25),
    "rho": ({"rho": 1.0}, 1.0),  # rms stays 1: 0.5 * 2 / sqrt(1)
    "epsilon": ({"epsilon": 12.0}, 0.25),  # 0.5 * 2 / sqrt(4 + 12)
    "eps_in_sqrt": ({"epsilon": 6.0, "eps_in_sqrt": False}, 0.125),  # 1 / (sqrt(4) + 6)
    "decay": ({"decay": 1.0}, 0.25),  # 0.5 / (1 + 1 * 1) is the learning rate
    "centered": (
        {"epsilon": 0.25, "centered": True},
        2.0,
    ),  # d = 4 - 2*2: 1 / sqrt(0.25)
    "clipvalue": ({"rho": 1.0, "clipvalue": 0.5}, 0.25),  # 0.5 * 0.5 / sqrt(1)
    "clipnorm": ({"rho": 1.0, "clipnorm": 0.5}, 0.25),
    "global_clipnorm": ({"rho": 1.0, "global_clipnorm": 0.5}, 0.25),
}


@pytest.mark.parametrize(("settings", "expected"), EFFECTS.values(), ids=EFFECTS)
def test_what_is_set_takes_effect_at_the_next_step(settings, expected):
    opt, var = RMSprop(0.5, **EXACT), np.array([8.0])
    opt.apply_gradients([(np.array([1.0]), var)])
    assert var[0] == 7.5
    for name, value in settings.items():
        setattr(opt, name, value)
    opt.apply_gradients([(np.array([2.0]), var)])
    assert var[0] == 7.5 - expected


def test_momentum_set_later_starts_from_zero():
    opt = RMSprop(0.5, **EXACT)
    var = np.array([8.0])
    opt.apply_gradients([(np.ones(1), var)])
    opt.momentum = 0.5
    seen = []
    for _ in range(3):
        opt.apply_gradients([(np.ones(1), var)])
        seen.append(opt.get_slot(var, "momentum")[0])
    # 0.5 * 0 + 0.5, 0.5 * 0.5 + 0.5, 0.5 * 0.75 + 0.5
    assert seen == [0.5, 0.75, 0.875]
    assert var[0] == 8.0 - 0.5 - sum(seen)


def test_momentum_of_zero_leaves_the_slot_alone():
    opt = RMSprop(0.5, **EXACT, momentum=0.5)
    var = np.array([8.0])
    opt.apply_gradients([(np.ones(1), var)])  # the slot is 0.5
    opt.momentum = 0.0
    opt.apply_gradients([(np.ones(1), var)])
    assert opt.get_slot(var, "momentum")[0] == 0.5
    assert var[0] == 8.0 - 0.5 - 0.5
    opt.momentum = 0.5
    opt.apply_gradients([(np.ones(1), var)])
    assert opt.get_slot(var, "momentum")[0] == 0.75  # 0.5 * 0.5 + 0.5


def test_the_learning_rate_is_inside_the_momentum():
    opt = RMSprop(0.5, **EXACT, momentum=0.5)
    var = np.array([8.0])
    opt.apply_gradients([(np.ones(1), var)])
    opt.learning_rate = 0.0
    opt.apply_gradients([(np.ones(1), var)])
    assert (
        var[0] == 8.0 - 0.5 - 0.25
    )  # the slot decays from 0.5; torch would stand still


def test_centered_switched_off_leaves_its_slot_alone():
    opt, var = RMSprop(0.5, rho=0.5, centered=True), np.array([8.0])
    opt.apply_gradients([(np.ones(1), var)])
    opt.centered = False
    opt.apply_gradients([(np.ones(1), var)])
    assert opt.get_slot(var, "mg")[0] == 0.5  # (1 - rho) * 1, from the first step


def test_rho_weighs_the_past():
    opt, var = RMSprop(rho=0.25, centered=True), np.array([8.0])
    for _ in range(2):
        opt.apply_gradients([(np.array([2.0]), var)])
    # 0.75 * 4, then 0.25 * 3 + 0.75 * 4; likewise 0.75 * 2, then 0.25 * 1.5 + 0.75 * 2.
    assert opt.get_slot(var, "rms")[0] == 3.75
    assert opt.get_slot(var, "mg")[0] == 1.875


@pytest.mark.parametrize(
    ("momentum", "centered", "eps_in_sqrt", "expected"),
    [
        # The evidence table of notes/keras-behaviour.md: lr, epsilon 1, g 3.
        (0.0, False, False, 0.75),  # 3 / (sqrt(9) + 1)
        (0.0, True, False, 1.2),  # 3 / (sqrt(4.5 - 1.5**2) + 1)
        (0.0, False, True, 0.948683298051),
        (0.0, True, True, 1.664100588676),
        (0.5, False, True, 0.948683298051),
        (0.5, True, True, 1.664100588676),
        (0.5, False, False, 0.75),
        (0.5, True, False, 1.2),
    ],
)
def test_the_first_step_is_that_of_keras(momentum, centered, eps_in_sqrt, expected):
    opt = RMSprop(
        1.0, 0.5 if centered else 0.0, momentum, 1.0, centered, eps_in_sqrt=eps_in_sqrt
    )
    var = np.zeros(1)
    opt.apply_gradients([(np.array([3.0]), var)])
    assert var[0] == pytest.approx(-expected, abs=1e-12)  # the table has 12 decimals


# --- Callables ------------------------------------------------------------------------


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_a_callable_is_read_once_per_step(name):
    reading = Reading(0.5)
    opt = RMSprop(**{name: reading})
    assert reading.calls == 0
    variables = [np.ones(3), np.ones((2, 2), np.float32), np.ones(())]
    pairs = [(np.ones_like(v), v) for v in variables]
    for step in (1, 2, 3):  # the first one binds
        opt.apply_gradients(pairs)
        assert reading.calls == step
    assert opt.minimize(lambda: (0.0, [g for g, _ in pairs]), variables) == 4
    assert reading.calls == 4


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_a_callable_is_read_once_when_a_step_brings_a_new_variable(name):
    reading = Reading(0.5)
    opt, a, b = RMSprop(**{name: reading}), np.ones(3), np.ones(2)
    opt.apply_gradients([(np.ones(3), a)])
    opt.apply_gradients([(np.ones(3), a), (np.ones(2), b)])
    assert reading.calls == 2


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_an_attribute_that_is_a_callable_reads_as_its_value(name):
    assert getattr(RMSprop(**{name: lambda: np.float32(0.5)}), name) == 0.5


def test_a_callable_may_change_its_mind_between_steps():
    values = iter([0.5, 0.25, 1.0])
    opt = RMSprop(lambda: next(values), **EXACT)
    assert moves(opt, [1.0, 1.0, 1.0]) == [0.5, 0.25, 1.0]


def test_callables_of_every_hyperparameter_act_as_their_values():
    values = {"learning_rate": 0.5, "rho": 0.7, "momentum": 0.3, "epsilon": 0.2}
    values["decay"] = 0.1
    given = {name: (lambda v=v: v) for name, v in values.items()}
    grads = [1.0, -2.0, 3.0]
    assert moves(RMSprop(**given), grads) == moves(RMSprop(**values), grads)


def test_momentum_from_a_callable_gets_its_slot_when_first_above_zero():
    momentum = Reading(0.0)
    opt, var = RMSprop(momentum=momentum), np.ones(1)
    opt.apply_gradients([(np.ones(1), var)])
    assert opt.get_slot_names() == ["rms"]
    momentum.value = 0.5
    opt.apply_gradients([(np.ones(1), var)])
    assert opt.get_slot_names() == ["rms", "momentum"]


@pytest.mark.parametrize("known", [False, True], ids=["first-step", "later-step"])
@pytest.mark.parametrize("name", HYPERPARAMETERS)
@pytest.mark.parametrize(
    ("value", "error"),
    [(np.nan, ValueError), (-1, ValueError), (None, TypeError), ("1", TypeError)]
    + [(np.ones(1), TypeError), (True, TypeError)],
    ids=["nan", "negative", "None", "text", "array", "bool"],
)
def test_a_bad_value_from_a_callable_changes_nothing(name, value, error, known):
    reading = Reading(0.5)
    opt, var = RMSprop(**{name: reading}), np.ones(3)
    if known:
        opt.apply_gradients([(np.ones(3), var)])
    state = var.tobytes(), opt.iterations, [w.tobytes() for w in opt.weights]
    reading.value = value
    with pytest.raises(error, match=rf"{name}\(\) must be .*, got "):
        opt.apply_gradients([(np.ones(3), var)])
    assert (var.tobytes(), opt.iterations, [w.tobytes() for w in opt.weights]) == state


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_a_callable_that_raises_changes_nothing(name):
    def broken():
        raise LookupError("no value today")

    opt, var = RMSprop(), np.ones(3)
    opt.apply_gradients([(np.ones(3), var)])
    setattr(opt, name, broken)
    state = var.tobytes(), opt.iterations, [w.tobytes() for w in opt.weights]
    with pytest.raises(LookupError, match="no value today"):
        opt.apply_gradients([(np.ones(3), var)])
    assert (var.tobytes(), opt.iterations, [w.tobytes() for w in opt.weights]) == state


# --- Learning rates -------------------------------------------------------------------


def test_a_schedule_gets_the_steps_made_before():
    steps = []

    class Noting(LearningRateSchedule):
        def __call__(self, step):
            steps.append(step)
            return 0.5

    moves(RMSprop(Noting()), [1.0, 1.0, 1.0])
    assert steps == [0, 1, 2]


@pytest.mark.parametrize("word", ["learning_rate", "lr"])
def test_a_schedule_sets_the_rate_of_each_step(word):
    # Up to and including step 0, then up to and including step 1, then later.
    schedule = PiecewiseConstantDecay([0, 1], [0.5, 0.25, 0.125])
    assert moves(RMSprop(**{word: schedule}, **EXACT), [1.0] * 4) == [
        0.5,
        0.25,
        0.125,
        0.125,
    ]


def test_a_schedule_reads_as_itself():
    schedule = ExponentialDecay(0.5, 10, 0.5)
    opt = RMSprop(schedule)
    assert opt.learning_rate is schedule
    assert opt.lr is schedule


def test_number_callable_and_schedule_can_replace_each_other():
    opt = RMSprop(0.5, **EXACT)
    seen = moves(opt, [1.0])
    for rate in (Constant(0.25), lambda: 0.125, 1.0, Constant(0.5)):
        opt.learning_rate = rate
        seen += moves(opt, [1.0])
    assert seen == [0.5, 0.25, 0.125, 1.0, 0.5]


def test_decay_divides_the_learning_rate():
    opt = RMSprop(1.0, **EXACT, decay=1.0)
    seen = moves(opt, [1.0, 1.0])
    opt.iterations = 3
    seen += moves(opt, [1.0])
    assert seen == [1.0, 0.5, 0.25]  # 1 / (1 + t) at t = 0, 1, 3


def test_schedule_and_decay_multiply():
    opt = RMSprop(PiecewiseConstantDecay([0], [1.0, 0.5]), **EXACT, decay=1.0)
    assert moves(opt, [1.0, 1.0]) == [1.0, 0.25]  # 1 / 1, 0.5 / (1 + 1)


def test_decay_set_to_zero_is_off_again():
    opt = RMSprop(0.5, **EXACT, decay=1.0)
    opt.iterations = 1
    seen = moves(opt, [1.0])
    opt.decay = 0
    assert seen + moves(opt, [1.0]) == [0.25, 0.5]


def test_iterations_set_by_hand_move_the_schedule():
    opt = RMSprop(PiecewiseConstantDecay([9], [0.5, 0.25]), **EXACT)
    opt.iterations = 10
    assert moves(opt, [1.0]) == [0.25]


@pytest.mark.parametrize(
    ("rate", "error"),
    [(-1.0, ValueError), (np.nan, ValueError), (np.inf, ValueError), ("1", TypeError)],
)
def test_a_bad_rate_from_a_schedule_changes_nothing(rate, error):
    opt, var = RMSprop(Constant(rate)), np.ones(3)
    with pytest.raises(error, match=r"learning_rate\(step\) must be .*, got "):
        opt.apply_gradients([(np.ones(3), var)])
    np.testing.assert_array_equal(var, np.ones(3))
    assert (opt.iterations, len(opt.weights)) == (0, 1)


# --- Configuration --------------------------------------------------------------------

KERAS_KEYS = [
    "name",
    "learning_rate",
    "decay",
    "rho",
    "momentum",
    "epsilon",
    "centered",
]


def test_the_configuration_has_the_keys_of_keras_in_order():
    assert list(RMSprop().get_config()) == [*KERAS_KEYS, "eps_in_sqrt"]


def test_clips_that_are_set_come_after_the_name():
    assert list(RMSprop(clipvalue=1.0, clipnorm=2.0).get_config())[:4] == [
        "name",
        "clipnorm",
        "clipvalue",
        "learning_rate",
    ]
    assert list(RMSprop(global_clipnorm=1.0).get_config())[:2] == [
        "name",
        "global_clipnorm",
    ]


ARGUMENTS = {
    "learning_rate": 0.5,
    "rho": 0.25,
    "momentum": 0.125,
    "epsilon": 0.0625,
    "centered": True,
    "name": "mine",
    "eps_in_sqrt": False,
    "num_threads": 3,
    "clipvalue": 2.0,
    "clipnorm": 3.0,
    "decay": 0.75,
}


def test_the_configuration_is_the_arguments():
    assert RMSprop(**ARGUMENTS).get_config() == ARGUMENTS


def test_from_config_rebuilds_the_optimizer_without_its_state():
    opt, var = RMSprop(**ARGUMENTS), np.ones(3)
    opt.apply_gradients([(np.ones(3), var)])
    twin = RMSprop.from_config(opt.get_config())
    assert type(twin) is RMSprop
    assert twin.get_config() == opt.get_config()
    assert (twin.iterations, len(twin.weights)) == (0, 1)


def test_the_configuration_is_json_after_steps_with_numpy_numbers():
    given = {k: np.float32(v) for k, v in ARGUMENTS.items() if type(v) is float}
    opt = RMSprop(**given, num_threads=np.int64(2), centered=np.True_)
    opt.apply_gradients([(np.ones(3, np.float32), np.ones(3, np.float32))])
    config = opt.get_config()
    assert json.loads(json.dumps(config)) == config
    assert RMSprop.from_config(json.loads(json.dumps(config))).get_config() == config


def test_callables_are_evaluated_in_the_configuration():
    opt = RMSprop(**{name: lambda: np.float32(0.5) for name in HYPERPARAMETERS})
    config = opt.get_config()
    assert [config[name] for name in HYPERPARAMETERS] == [0.5] * len(HYPERPARAMETERS)
    assert json.loads(json.dumps(config)) == config


def test_a_schedule_survives_a_round_trip_through_json():
    schedule = ExponentialDecay(0.5, decay_steps=10, decay_rate=0.25, staircase=True)
    config = RMSprop(schedule).get_config()
    assert config["learning_rate"] == {
        "class_name": "ExponentialDecay",
        "config": schedule.get_config(),
    }
    twin = RMSprop.from_config(json.loads(json.dumps(config)))
    assert twin.learning_rate == schedule


def test_a_custom_schedule_comes_from_custom_objects():
    config = RMSprop(Constant(0.5)).get_config()
    twin = RMSprop.from_config(config, custom_objects={"Constant": Constant})
    assert isinstance(twin.learning_rate, Constant)
    assert twin.learning_rate.rate == 0.5


def test_an_unknown_schedule_is_a_value_error():
    with pytest.raises(ValueError, match="Unknown decay: Constant"):
        RMSprop.from_config(RMSprop(Constant(0.5)).get_config())


def test_lr_in_a_configuration_wins():
    assert RMSprop.from_config({"lr": 0.5}).learning_rate == 0.5
    assert RMSprop.from_config({"lr": 0.5, "learning_rate": 0.1}).learning_rate == 0.5
    schedule = ExponentialDecay(0.5, 10, 0.25)
    config = {"lr": RMSprop(schedule).get_config()["learning_rate"]}
    assert RMSprop.from_config(config).learning_rate == schedule


def test_from_config_does_not_change_its_argument():
    config = {"lr": RMSprop(ExponentialDecay(0.5, 10, 0.25)).get_config()}
    config = {**config["lr"], "lr": config["lr"]["learning_rate"]}
    before = json.dumps(config)
    RMSprop.from_config(config)
    assert json.dumps(config) == before


def test_keys_missing_from_a_configuration_take_their_defaults():
    assert RMSprop.from_config({}).get_config() == RMSprop().get_config()


def test_an_unknown_key_of_a_configuration_is_a_type_error():
    with pytest.raises(TypeError, match=r"Unexpected keyword .* optimizer: nesterov"):
        RMSprop.from_config({"nesterov": True})


def test_the_configuration_is_a_new_dict_each_time():
    opt = RMSprop()
    opt.get_config()["rho"] = 0.5
    assert opt.get_config()["rho"] == 0.9


class Halved(RMSprop):
    """A subclass with an argument of its own."""

    def __init__(self, learning_rate=0.5, factor=0.5, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.factor = factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}

    def apply_gradients(self, grads_and_vars, name=None):
        pairs = [(self.factor * grad, var) for grad, var in grads_and_vars]
        return super().apply_gradients(pairs, name)


def test_a_subclass_steps_and_rebuilds_itself():
    opt = Halved(0.5, 0.25, rho=0.0, epsilon=3.0, name="half")
    assert moves(opt, [4.0]) == [0.25]  # g is 0.25 * 4: 0.5 * 1 / sqrt(1 + 3)
    twin = Halved.from_config(opt.get_config())
    assert type(twin) is Halved
    assert twin.get_config() == opt.get_config()
    assert repr(twin).startswith("Halved(name='half'")


def test_a_copy_of_a_subclass_keeps_what_it_added():
    twin = copy.deepcopy(Halved(factor=0.25))
    assert type(twin) is Halved
    assert twin.factor == 0.25


def test_a_subclass_is_called_after_itself_when_it_has_no_name():
    assert Halved(name=None).get_config()["name"] == "Halved"


# What RMSprop().get_config() of each Keras returns, and with a schedule.
KERAS_3 = {
    "name": "rmsprop",
    "learning_rate": 0.0010000000474974513,
    **dict.fromkeys(("weight_decay", "clipnorm", "global_clipnorm", "clipvalue")),
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
    "rho": 0.9,
    "momentum": 0.0,
    "epsilon": 1e-07,
    "centered": False,
}
KERAS_2 = {
    "name": "RMSprop",
    "weight_decay": None,
    "clipnorm": None,
    "global_clipnorm": None,
    "clipvalue": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": 100,
    "jit_compile": True,
    "is_legacy_optimizer": False,
    "learning_rate": 0.01,
    "rho": 0.8,
    "momentum": 0.5,
    "epsilon": 1e-07,
    "centered": True,
}
KERAS_2_LEGACY = {
    "name": "RMSprop",
    "learning_rate": 0.01,
    "decay": 0.1,
    "rho": 0.9,
    "momentum": 0.0,
    "epsilon": 1e-07,
    "centered": False,
}
SCHEDULE_OF_KERAS_3 = {
    "module": "keras.optimizers.schedules",
    "class_name": "ExponentialDecay",
    "config": {
        "initial_learning_rate": 0.5,
        "decay_steps": 10,
        "decay_rate": 0.5,
        "staircase": False,
        "name": "ExponentialDecay",
    },
    "registered_name": None,
}


@pytest.mark.parametrize(
    "config",
    [KERAS_3, KERAS_2, KERAS_2_LEGACY],
    ids=["keras-3", "keras-2.15", "keras-2-legacy"],
)
def test_a_configuration_of_keras_makes_the_same_optimizer(config):
    before = dict(config)
    opt = RMSprop.from_config(config)
    assert config == before
    for name in ("learning_rate", "rho", "momentum", "epsilon", "centered"):
        assert getattr(opt, name) == config[name]
    assert opt.decay == config.get("decay", 0.0)


def test_a_schedule_of_keras_3_is_ours():
    opt = RMSprop.from_config({**KERAS_3, "learning_rate": SCHEDULE_OF_KERAS_3})
    assert opt.learning_rate(10) == 0.25


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_ema", True),
        ("loss_scale_factor", 2.0),
        ("gradient_accumulation_steps", 4),
    ],
)
def test_a_key_of_keras_that_would_change_something_is_named(key, value):
    match = f"^config: {key} is not supported, got {value}"
    with pytest.raises(ValueError, match=match):
        RMSprop.from_config({**KERAS_3, key: value})


def test_an_unknown_key_is_named():
    with pytest.raises(TypeError, match="nesterov"):
        RMSprop.from_config({**KERAS_3, "nesterov": True})
