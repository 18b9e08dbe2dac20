"""Arrays, threads and classes that get in the way of an optimizer."""

import copy
import threading

import numpy as np
import pytest

from rmsprop_fast import RMSprop, hyperparameters


class Named(np.ndarray):
    """An ndarray that has an attribute of the name that IndexedSlices has."""


@pytest.mark.parametrize("values", [None, np.ones(4)])
def test_a_gradient_with_an_attribute_values_is_an_array(values):
    var = np.zeros(4)
    grad = np.ones(4).view(Named)
    grad.values = values
    RMSprop().apply_gradients([(grad, var)])
    overlapping = var.view(Named)
    overlapping.values = values
    with pytest.raises(ValueError, match="shares memory"):
        RMSprop().apply_gradients([(overlapping, var)])


def test_not_finite_in_a_gradient_with_an_attribute_values():
    grad = np.full(4, np.nan).view(Named)
    grad.values = np.ones(4)
    with pytest.raises(FloatingPointError):
        RMSprop(check_finite=True).apply_gradients([(grad, np.zeros(4))])


def test_set_weights_whose_cast_raises_copies_nothing():
    var = np.zeros(3, np.float32)
    opt = RMSprop()
    opt.apply_gradients([(np.ones(3, np.float32), var)])
    before = opt.get_weights()
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        opt.set_weights([np.int64(77), np.full(3, 1e300)])
    for old, new in zip(before, opt.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_no_setter_is_lost_between_reading_and_writing(monkeypatch):
    opt = RMSprop()
    real = hyperparameters.one_norm

    def switch(*norms):  # a thread switch at this call
        monkeypatch.setattr(hyperparameters, "one_norm", real)
        other = threading.Thread(target=setattr, args=(opt, "rho", 0.5))
        other.start()
        other.join(0.5)  # it may wait for this one
        return real(*norms)

    monkeypatch.setattr(hyperparameters, "one_norm", switch)
    opt.learning_rate = 0.25
    for _ in range(100):
        threading.Event().wait(0.01)
        if opt.rho == 0.5:
            break
    assert (opt.learning_rate, opt.rho) == (0.25, 0.5)


def test_a_copy_is_of_one_step_while_another_thread_steps():
    pairs = [(np.ones(10), np.zeros(10)) for _ in range(3)]
    opt = RMSprop()
    opt.apply_gradients(pairs)
    state = opt.__getstate__()
    before = {name: a.copy() for name, a in state["state"]["arrays"].items()}
    opt.apply_gradients(pairs)  # what another thread does before pickle reads them
    for name, array in state["state"]["arrays"].items():
        np.testing.assert_array_equal(array, before[name])


def test_a_variable_that_shrank_in_place_can_be_forgotten():
    var = np.zeros((100000, 4))
    opt = RMSprop()
    opt.apply_gradients([(np.ones(var.shape), var)])
    var.resize((2, 4), refcheck=False)
    with pytest.raises(ValueError, match="forget it first"):
        opt.apply_gradients([(np.ones(var.shape), var)])
    opt.forget(var)
    opt.apply_gradients([(np.ones(var.shape), var)])


def test_a_slot_cannot_be_reshaped_or_resized_behind_the_optimizer():
    var = np.zeros((4, 3))
    opt = RMSprop()
    opt.apply_gradients([(np.ones((4, 3)), var)])
    opt.get_slot(var, "rms").shape = (12,)
    opt.weights[0].shape = (1,)
    twin = copy.deepcopy(opt)
    assert (twin.iterations, twin.weights[1].shape) == (1, (4, 3))
    with pytest.raises(ValueError, match=r"resize|own"):
        opt.get_slot(var, "rms").resize((1,), refcheck=False)


def test_save_finalises_no_object_of_the_caller(tmp_path):
    class Closing(RMSprop):
        closed = 0

        def __del__(self):
            Closing.closed += 1

    opt = Closing()
    opt.save(tmp_path / "opt.npz")
    assert Closing.closed == 0


def test_negative_iterations_change_nothing():
    var = np.zeros(3)
    opt = RMSprop()
    opt.apply_gradients([(np.ones(3), var)])
    opt.weights[0][()] = -5
    before = var.copy()
    with pytest.raises((ValueError, OverflowError, RuntimeError)):
        opt.apply_gradients([(np.ones(3), var)])
    np.testing.assert_array_equal(var, before)
