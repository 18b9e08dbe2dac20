"""Save and load: the same bits go on, and no file is ever half or wrong unnoticed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from faults import interrupted_at, lines_of
from hypothesis import given
from hypothesis import strategies as st
from support import bits, nothing_changes

import rmsprop_fast
from rmsprop_fast import IndexedSlices, RMSprop, archive, checkpoint, load, schedules

needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="the platform forks not"
)


def trained(**options):
    """Return an optimizer with every slot, and its two variables."""
    rng = np.random.default_rng(3)
    variables = [rng.standard_normal((4, 3)), rng.standard_normal(5).astype(np.float32)]
    opt = RMSprop(**{"momentum": 0.9, "centered": True, **options})
    for _ in range(3):
        step(opt, variables)
    return opt, variables


def step(opt, variables):
    table, bias = variables
    seed = opt.iterations
    rng = np.random.default_rng(seed)
    rows = IndexedSlices(rng.standard_normal((3, 3)), rng.integers(0, 4, 3))
    grad = rng.standard_normal(5).astype(np.float32)
    opt.apply_gradients([(rows, table), (grad, bias)])


def same(opt, twin):
    return (
        bits(opt.weights) == bits(twin.weights)
        and opt.get_slot_names() == twin.get_slot_names()
        and opt.get_config() == twin.get_config()
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.npz"


# --- Resume ---------------------------------------------------------------------------

RESUME = """
import pickle, sys
from pathlib import Path

import joblib
import numpy as np

from rmsprop_fast import IndexedSlices, RMSprop, load
from rmsprop_fast.schedules import CosineDecay, LearningRateSchedule

N = 6


class Halving(LearningRateSchedule):
    def __init__(self, start):
        self.start = start

    def __call__(self, step):
        return self.start * 0.5**step

    def get_config(self):
        return {"start": self.start}


class Nameless(LearningRateSchedule):
    def __call__(self, step):
        return 0.1 / (1 + step)


class Mine(RMSprop):
    def __init__(self, scale=1.0, **options):
        super().__init__(0.01 * scale, **options)
        self.scale = scale

    def get_config(self):
        config = super().get_config()
        del config["learning_rate"]
        return {**config, "scale": self.scale}


def rate():
    return 0.125


def rho():
    return 0.75


CUSTOM = {"Halving": Halving, "Mine": Mine, "rho": rho}
BUILD = {
    "plain": lambda: RMSprop(),
    "all": lambda: RMSprop(0.01, 0.8, 0.9, 1e-5, True, eps_in_sqrt=False, decay=0.1,
                           clipnorm=1.0, clipvalue=0.5, num_threads=2),
    "schedule": lambda: RMSprop(CosineDecay(0.1, 4), momentum=0.5, global_clipnorm=1.0),
    "callables": lambda: RMSprop(rate, rho=rho, decay=0.5),
    "own schedule": lambda: RMSprop(Halving(0.25), centered=True),
    "no config": lambda: RMSprop(Nameless()),
    "subclass": lambda: Mine(2.0, momentum=0.5),
    "momentum late": lambda: RMSprop(0.02),
    "built": lambda: RMSprop(0.02, momentum=0.5),
}


def fresh(name):
    rng = np.random.default_rng(1)
    variables = [
        rng.standard_normal((40, 3)),
        rng.standard_normal(7).astype(np.float32),
        rng.standard_normal((3, 4)).T,
        rng.standard_normal(()),
    ]
    opt = BUILD[name]()
    if name == "built":
        opt.build(variables)
        opt.add_slot(variables[0], "average", "ones")
    return opt, variables


def train(name, opt, variables, stop):
    while opt.iterations < stop:
        k = opt.iterations
        if name == "momentum late" and k == 3:
            opt.momentum = 0.9
        rng = np.random.default_rng(100 + k)
        grads = [rng.standard_normal(v.shape).astype(v.dtype) for v in variables]
        grads[0] = IndexedSlices(grads[0][:20].copy(), rng.integers(0, 40, 20))
        opt.apply_gradients(zip(grads, variables, strict=True))


def result(opt, variables):
    return b"".join(a.tobytes() for a in [*variables, *opt.get_weights()]).hex()


folder, part = Path(sys.argv[2]), sys.argv[1]
for name in BUILD:
    if part == "first":
        opt, variables = fresh(name)
        train(name, opt, variables, N)
        print(name, result(opt, variables), sep=";")
    for k in range(N + 1):
        to = [folder / f"{name}-{k}.{way}" for way in ("npz", "pickle", "joblib")]
        if part == "first":
            opt, variables = fresh(name)
            train(name, opt, variables, k)
            opt.save(to[0], variables)
            to[1].write_bytes(pickle.dumps((opt, variables)))
            joblib.dump((opt, variables), to[2])
            continue
        _, variables = fresh(name)
        rate_given = Nameless() if name == "no config" else rate
        custom = {**CUSTOM, "learning_rate": rate_given}
        opts = [
            (load(to[0], variables, custom_objects=custom), variables),
            pickle.loads(to[1].read_bytes()),
            joblib.load(to[2]),
        ]
        for opt, variables in opts:
            assert opt.iterations == k
            train(name, opt, variables, N)
            print(name, result(opt, variables), sep=";")
"""


def test_training_resumed_in_a_new_process_at_any_step_has_the_same_bits(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(RESUME)
    out = []
    for part in ("first", "second"):
        done = subprocess.run(
            [sys.executable, "-W", "error", str(script), part, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        out.append([line.split(";") for line in done.stdout.splitlines()])
    whole, resumed = dict(out[0]), out[1]
    assert len(resumed) == 9 * 7 * 3  # optimizers, steps, and ways to save
    assert [name for name, result in resumed if whole[name] != result] == []


FLOATS = [np.float32, np.float64]


@given(data=st.data())
def test_every_state_comes_back_bit_for_bit(tmp_path, data):
    path = tmp_path / "any.npz"
    opt, variables = RMSprop(), []
    for _ in range(data.draw(st.integers(0, 3))):
        shape = data.draw(st.lists(st.integers(0, 3), max_size=3))
        variables.append(np.zeros(shape, data.draw(st.sampled_from(FLOATS))))
        for name in data.draw(st.lists(st.text(max_size=5), min_size=1, max_size=3)):
            slot = opt.add_slot(variables[-1], name)
            raw = data.draw(st.binary(min_size=slot.nbytes, max_size=slot.nbytes))
            slot[...] = np.frombuffer(raw, slot.dtype).reshape(slot.shape)
    opt.iterations = data.draw(st.integers(0, 2**63 - 1))
    if data.draw(st.booleans()) and variables:
        opt.build(variables)
    opt.save(path)
    twin = load(path)
    assert same(opt, twin)
    saved = path.read_bytes()
    twin.save(path)
    assert path.read_bytes() == saved, "the same state is the same file"
    if variables:
        twin.build(variables)
        for var in variables:
            for name in opt.get_slot_names():
                try:
                    slot = opt.get_slot(var, name)
                except KeyError:
                    continue
                assert twin.get_slot(var, name).tobytes() == slot.tobytes()


@pytest.mark.parametrize("learning_rate", [0.1, 1e-300, 1 / 3, np.float32(0.1)])
def test_hyperparameters_come_back_exactly(path, learning_rate):
    opt = RMSprop(learning_rate, rho=0.1 + 0.2, epsilon=5e-324, clipvalue=1 / 7)
    opt.save(path)
    twin = load(path)
    assert type(twin) is RMSprop
    assert twin.get_config() == opt.get_config()


def test_saving_changes_nothing_and_calls_nothing(path):
    def never():
        raise AssertionError("was called")

    opt, variables = trained()
    opt.learning_rate = opt.rho = opt.momentum = opt.epsilon = opt.decay = never
    config = dict(opt._values)
    with nothing_changes(opt, *variables):
        opt.save(path, variables)
    assert opt._values == config
    twin = load(path, [], custom_objects=dict.fromkeys(config, never))
    assert twin._values == config


def test_save_changes_no_loss_and_load_has_none(path):
    opt, (table, _) = trained()
    opt.get_gradients(lambda: (3.5, [table * 2]), [table])
    opt.save(path)
    assert opt.last_loss == 3.5
    assert load(path).last_loss is None


def test_slots_in_files_are_saved_and_loaded_into_memory(tmp_path, path):
    var, opt = np.zeros((6, 2)), RMSprop()
    slot = np.memmap(tmp_path / "rms", np.float64, "w+", shape=(6, 2))
    opt.add_slot(var, "rms", slot)
    opt.apply_gradients([(np.ones((6, 2)), var)])
    opt.save(path)
    twin = load(path)
    assert same(opt, twin)
    assert type(twin.weights[1]) is np.ndarray


def test_a_state_beyond_one_chunk_comes_back(path, monkeypatch):
    monkeypatch.setattr(archive, "CHUNK", 24)  # 3 numbers, 5 in the last of 4
    opt, _ = trained()
    opt.save(path)
    assert same(opt, load(path))


def test_numpy_reads_the_file_without_pickle(path):
    opt, variables = trained()
    opt.save(path, variables)
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["variable.0"], variables[0])
        np.testing.assert_array_equal(
            file["slot.1.momentum"], opt.get_slot(variables[1], "momentum")
        )
        header = json.loads(file["header.json"])
    assert header["state"]["iterations"] == 3
    assert header["config"] == opt.get_config()


def test_threads_that_step_while_another_saves_leave_whole_steps(path):
    opt, var = RMSprop(2.0**-6, rho=0.0, epsilon=0.0), np.full(2**13, 8.0)
    grad = np.ones(2**13)
    opt.apply_gradients([(grad, var)])
    stop = threading.Event()

    def work():
        while not stop.is_set() and opt.iterations < 400:
            opt.apply_gradients([(grad, var)])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(10):
            opt.save(path, [var])
            found = np.zeros_like(var)
            twin = load(path, [found])
            # Every step moves every element by 2**-6.
            np.testing.assert_array_equal(found, 8.0 - twin.iterations * 2.0**-6)
    finally:
        stop.set()
        thread.join(60)


def test_a_variable_that_somebody_writes_meanwhile_is_saved_readably(path):
    """Its values are of no one moment; the file is whole all the same."""
    opt, var = RMSprop(), np.zeros(2**18)
    stop = threading.Event()

    def work():
        while not stop.is_set():
            np.add(var, 1.0, out=var)  # without the GIL

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(20):
            opt.save(path, [var])
            load(path, [])
    finally:
        stop.set()
        thread.join(60)


def test_variables_on_devices_are_saved_and_loaded_there(path, xp):
    grad, start = np.full((4, 3), 0.5), np.ones((4, 3))
    device = 1 if xp.is_fake else 0
    var, opt = xp(start, device=device), RMSprop(0.1, momentum=0.9)
    opt.apply_gradients([(xp(grad, device=device), var)])
    opt.save(path, [var])
    again = xp(np.zeros((4, 3)), device=device)
    twin = load(path, [again])
    np.testing.assert_array_equal(xp.get(again), xp.get(var))
    for optimizer, array in [(opt, var), (twin, again)]:
        optimizer.apply_gradients([(xp(grad, device=device), array)])
    assert twin.get_slot(again, "rms").data.device_id == device
    np.testing.assert_array_equal(xp.get(again), xp.get(var))
    assert same(opt, twin)


def test_a_state_of_the_host_is_loaded_to_a_device_and_back(path, xp):
    opt, variables = trained()
    opt.save(path, variables)
    there = [xp(np.zeros(var.shape, var.dtype)) for var in variables]
    load(path, there).save(path, there)
    back = [np.zeros(var.shape, var.dtype) for var in variables]
    twin = load(path, back)
    assert bits(back) == bits(variables)
    assert same(opt, twin)


def test_configuration_and_state_are_of_one_moment(path):
    """Somebody trains on and sets the learning rate while get_config runs."""

    class Slow(RMSprop):
        def get_config(self):
            opt.learning_rate = 0.5
            opt.centered = False
            step(opt, variables)
            return super().get_config()

    opt, variables = Slow(0.25, momentum=0.9, centered=True), trained()[1]
    step(opt, variables)
    opt.save(path)
    twin = load(path, custom_objects={"Slow": Slow})
    assert (twin.iterations, twin.learning_rate, twin.centered) == (1, 0.25, True)
    assert opt.iterations == 2


def test_a_learning_rate_on_a_device_is_saved_as_it_was_with_the_state(
    path, xp, monkeypatch
):
    rate = xp(np.float64(0.25))
    opt = RMSprop(rate)
    opt.add_slot(np.ones(3), "rms")
    write = archive.Writer.add

    def add_late(writer, name, array):
        write(writer, name, array)
        rate.set(np.array(0.5))

    monkeypatch.setattr(archive.Writer, "add", add_late)
    opt.save(path)
    assert load(path).learning_rate == 0.25


def test_get_config_of_a_subclass_runs_without_the_lock(path):
    class Asks(RMSprop):
        def get_config(self):
            thread = threading.Thread(target=lambda: seen.append(opt.get_weights()))
            thread.start()
            thread.join(60)
            return super().get_config()

    opt, seen = Asks(), []
    opt.save(path)
    assert len(seen) == 1


# --- Variables ------------------------------------------------------------------------


def test_variables_are_copied_into_arrays_of_any_layout(path):
    opt, variables = trained()
    opt.save(path, variables)
    table, bias = np.zeros((3, 4)).T, np.zeros(10, np.float32)[::-2]
    load(path, [table, bias])
    np.testing.assert_array_equal(table, variables[0])
    np.testing.assert_array_equal(bias, variables[1])


@pytest.mark.parametrize(
    ("var_list", "error", "match"),
    [
        (None, ValueError, "var_list must be the 2 variables .* got None"),
        (
            [np.ones((4, 3))],
            ValueError,
            r"shapes and dtypes saved, .* got \[\(\(4, 3\)",
        ),
        ([np.ones((4, 3)), np.ones(5)], ValueError, r"shapes and dtypes saved"),
        ([np.ones(5, np.float32), np.ones((4, 3))], ValueError, "shapes and dtypes"),
        ([np.ones((4, 3)), [1.0]], TypeError, r"var_list\[1\]: var must be a numpy"),
        (np.ones((4, 3)), TypeError, "var_list must be a list of arrays"),
    ],
    ids=["missing", "few", "dtype", "order", "list", "array"],
)
def test_arrays_that_do_not_match_are_refused_and_left(path, var_list, error, match):
    opt, variables = trained()
    opt.save(path, variables)
    given = [] if var_list is None else list(var_list)
    arrays = [array for array in given if isinstance(array, np.ndarray)]
    before = bits(arrays)
    with pytest.raises(error, match=match):
        load(path, var_list)
    assert bits(arrays) == before


def test_variables_may_be_left_in_the_file(path):
    opt, variables = trained()
    opt.save(path, variables)
    assert same(opt, load(path, []))


def test_a_file_without_variables_fills_none(path):
    opt, variables = trained()
    opt.save(path)
    with pytest.raises(ValueError, match=r"shapes and dtypes saved, \[\], got \[\(\(4"):
        load(path, variables)


def test_what_cannot_be_a_variable_is_not_saved(path):
    opt, _ = trained()
    opt.save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError, match=r"var_list\[0\]: var must have dtype float32"):
        opt.save(path, [np.ones(3, np.float16)])
    with pytest.raises(ValueError, match="shares memory with"):
        opt.save(path, [(whole := np.ones(3)), whole[1:]])
    assert path.read_bytes() == before


# --- What a file cannot hold ----------------------------------------------------------


class Halving(schedules.LearningRateSchedule):
    def __init__(self, start):
        self.start = start

    def __call__(self, step):
        return self.start * 0.5**step

    def get_config(self):
        return {"start": self.start}


class Nameless(schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.25


class CosineDecay(schedules.LearningRateSchedule):
    """Of the name of a built-in one."""

    def __call__(self, step):
        return 0.125

    def get_config(self):
        return {}


class Mine(RMSprop):
    pass


def test_callables_are_asked_for_by_name(path):
    opt = RMSprop(rho=lambda: 0.5, decay=float)
    opt.save(path)
    with pytest.raises(ValueError, match=r"state.npz' cannot be loaded: ") as caught:
        load(path)
    words = str(caught.value)
    assert "decay is builtins.float" in words
    assert f"rho is {__name__}.test_callables" in words
    assert words.endswith("give custom_objects={'decay': ..., 'rho': ...}")
    twin = load(path, custom_objects={"rho": lambda: 0.25, "decay": 0.5})
    assert (twin.rho, twin.decay) == (0.25, 0.5)


def test_a_callable_is_checked_as_any_hyperparameter(path):
    RMSprop(rho=lambda: 0.5).save(path)
    with pytest.raises(ValueError, match=r"rho must be in \[0, 1\], got 2"):
        load(path, custom_objects={"rho": 2})


def test_schedules_of_ones_own_are_asked_for_by_class(path):
    RMSprop(Halving(0.5)).save(path)
    match = rf"learning_rate is a {__name__}.Halving, .*{{'Halving': \.\.\.}}"
    with pytest.raises(ValueError, match=match):
        load(path)
    twin = load(path, custom_objects={"Halving": Halving})
    assert twin.learning_rate(1) == 0.25


def test_a_schedule_without_config_is_a_callable(path):
    RMSprop(Nameless()).save(path)
    with pytest.raises(ValueError, match=rf"learning_rate is {__name__}.Nameless, "):
        load(path)
    schedule = Nameless()
    twin = load(path, custom_objects={"learning_rate": schedule})
    assert twin.learning_rate is schedule


def test_a_schedule_is_not_taken_for_the_built_in_one_of_its_name(path):
    RMSprop(CosineDecay()).save(path)
    with pytest.raises(ValueError, match=rf"learning_rate is a {__name__}.CosineDecay"):
        load(path)
    twin = load(path, custom_objects={"CosineDecay": CosineDecay})
    assert twin.learning_rate(0) == 0.125


def test_optimizers_of_ones_own_are_asked_for_by_class(path):
    Mine(0.5).save(path)
    match = rf"the optimizer is a {__name__}.Mine, .*{{'Mine': \.\.\.}}"
    with pytest.raises(ValueError, match=match):
        load(path)
    twin = load(path, custom_objects={"Mine": Mine})
    assert type(twin) is Mine
    assert twin.learning_rate == 0.5


def test_an_optimizer_is_not_taken_for_the_built_in_one_of_its_name(path):
    class RMSprop(rmsprop_fast.RMSprop):
        pass

    RMSprop().save(path)
    with pytest.raises(ValueError, match=r"the optimizer is a .*\.RMSprop, which"):
        load(path)
    assert type(load(path, custom_objects={"RMSprop": RMSprop})) is RMSprop


@pytest.mark.parametrize("given", [dict, "Mine", Halving])
def test_a_custom_optimizer_must_be_one(path, given):
    Mine().save(path)
    with pytest.raises(TypeError, match=r"custom_objects\['Mine'\] must be an Optimiz"):
        load(path, custom_objects={"Mine": given})


def test_a_config_that_json_cannot_hold_is_refused(path):
    RMSprop(Halving(np.float32(0.5))).save(path)  # as a number
    assert load(path, custom_objects={"Halving": Halving}).learning_rate(1) == 0.25
    before = path.read_bytes()
    with pytest.raises(TypeError, match=r"must return what JSON can hold, got array"):
        RMSprop(Halving(np.ones(2))).save(path)
    assert path.read_bytes() == before


# --- Damage ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "state.npz"
    opt, var = RMSprop(), np.ones(3)
    opt.apply_gradients([(np.ones(3), var)])
    opt.save(path, [var])
    return opt, path.read_bytes()


def is_refused(path, data):
    path.write_bytes(data)
    try:
        load(path, [])
    except ValueError as error:
        if not str(error).startswith(f"{str(path)!r} cannot be loaded: "):
            raise
        return True
    return False


def is_refused_or_same(path, data, opt):
    if is_refused(path, data):
        return True
    assert same(opt, load(path, []))
    return False


def test_a_flipped_bit_is_found_wherever_it_matters(path, whole):
    opt, data = whole
    missed = []
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position * 5 % 8  # every bit in its turn
        if not is_refused_or_same(path, flipped, opt):
            missed.append(position)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            n_extra = int.from_bytes(data[info.header_offset + 28 :][:2], "little")
            start = info.header_offset + 30 + len(info.filename) + n_extra
            contents = range(start, start + info.file_size)
            assert not set(missed) & set(contents), "only zip's own notes may be wrong"


def test_a_truncated_file_is_found(path, whole):
    opt, data = whole
    for length in range(0, len(data), 3):
        assert is_refused_or_same(path, data[:length], opt)


def test_swapped_arrays_are_found(path):
    """Each member is right in itself, and the header is another's."""
    opt, variables = trained()
    opt.save(path)
    one = members(path)
    step(opt, variables)
    opt.save(path)
    other = members(path)
    rewrite(path, {**other, "slot.0.rms.npy": one["slot.0.rms.npy"]}, comment(path))
    with pytest.raises(ValueError, match=r"array slot\.0\.rms is not the one"):
        load(path)


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def comment(path):
    with zipfile.ZipFile(path) as archive:
        return archive.comment


def rewrite(path, contents, comment, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
        archive.comment = comment


def forge(path, edit, **arrays):
    """Change a file so that all its checksums are right."""
    contents = members(path)
    header = json.loads(contents.pop("header.json"))
    edit(header)
    for name, array in arrays.items():
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=True)
        contents[f"{name.replace('_', '.', 2)}.npy"] = stream.getvalue()
    for entry in header["arrays"]:
        if isinstance(entry, dict):
            entry["crc32"] = zipfile.crc32(contents.get(f"{entry['name']}.npy", b""))
    text = json.dumps(header).encode()
    digest = b"sha256:" + hashlib.sha256(text).hexdigest().encode()
    rewrite(path, {**contents, "header.json": text}, digest)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda h: h.update(format_version=2), "format version is 2, .* reads 1"),
        (lambda h: h.update(format="other"), "not say that it is of format rmsprop_fa"),
        (lambda h: h.pop("config"), "no config that is a dict"),
        (lambda h: h.update(state=[]), "no state that is a dict"),
        (lambda h: h["state"].pop("iterations"), "iterations"),
        (lambda h: h["state"].update(iterations=-1), "iterations must be >= 0, got -1"),
        (lambda h: h["state"].update(iterations="9"), "iterations must be an integer"),
        (lambda h: h["state"].update(is_closed=1), "is_closed must be a bool, got 1"),
        (
            lambda h: h["state"].update(variables=[], is_excluded=[]),
            "slot.0.rms must be of one of 0",
        ),
        (lambda h: h["state"].update(variables=3), "int"),
        (lambda h: h["state"]["variables"].reverse(), "slot.0.rms must have its var"),
        (
            lambda h: h["state"]["variables"][0].__setitem__(1, "int8"),
            "dtype must be float32 or float64",
        ),
        (lambda h: h["arrays"].pop(), "its members are not those .*slot.1.mg"),
        (lambda h: h["arrays"].append(h["arrays"][0]), "slot.0.rms"),
        (lambda h: h["arrays"].append(3), "int"),
        (
            lambda h: h["arrays"].append({"name": "slot.7.rms"}),
            "its members are not those .*slot.7.rms",
        ),
        (
            lambda h: h["arrays"][0].update(shape=[10**12, 3]),
            "slot.0.rms is not the one",
        ),
    ],
)
def test_a_forged_header_is_refused(path, edit, match):
    opt, _ = trained()
    opt.save(path)
    forge(path, edit)
    with pytest.raises(ValueError, match=f"cannot be loaded: .*{match}"):
        load(path)


def counting():
    """Return an optimizer with rows that miss steps, and its variable."""
    opt, var = RMSprop(momentum=0.5, catch_up=True), np.ones((4, 2))
    opt.apply_gradients([(np.ones((4, 2)), var)])
    for rows in ([0], [1]):
        slices = IndexedSlices(np.ones((1, 2)), np.array(rows))
        opt.apply_gradients([(slices, var)])
    return opt, var


COUNTERS = [
    ("row_steps", [-9, 2, 3, 0], r"row_steps must be in \[0, 3\], got -9"),
    ("row_steps", [4, 2, 3, 0], r"row_steps must be in \[0, 3\], got 4"),
    ("steps", [-5, -9], r"steps must be two counts .*, got \[-5, -9\]"),
    ("steps", [3, 4], r"steps must be two counts .*, got \[3, 4\]"),
    ("steps", [3, -1], r"steps must be two counts .*, got \[3, -1\]"),
    ("steps", [2**63 - 1, 0], r"steps must be two counts in \[0, 2\*\*62\], "),
    ("steps", [2**62 + 1, 0], r"steps must be two counts in \[0, 2\*\*62\], "),
]


@pytest.mark.parametrize(("name", "counts", "match"), COUNTERS)
def test_counters_that_no_optimizer_can_have_are_refused(path, name, counts, match):
    """C indexes and loops by them."""
    opt, _ = counting()
    opt.save(path)
    counts = np.array(counts)
    forge(path, lambda header: None, **{f"counter_0_{name}": counts})
    with pytest.raises(ValueError, match=f"cannot be loaded: counter.0.{match}"):
        load(path)
    pickled = opt.__getstate__()
    pickled["state"]["arrays"][f"counter.0.{name}"] = counts
    with pytest.raises(ValueError, match=match):
        RMSprop().__setstate__(pickled)


def test_the_largest_counts_are_loaded(path):
    opt, var = counting()
    opt.save(path)
    forge(path, lambda header: None, counter_0_steps=np.array([2**62, 0]))
    twin = load(path)
    twin.build([var])
    twin.catch_up()
    assert np.isfinite(var).all()


def edit_spec(header, *, shape):
    header["state"]["variables"][0][0] = shape


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda h: edit_spec(h, shape=[2**70, 2]), "shape.0. must be <= "),
        (lambda h: edit_spec(h, shape=[-4, 2]), "shape.0. must be >= 0"),
        (lambda h: edit_spec(h, shape=[4.0, 2]), "shape.0. must be an integer"),
        (lambda h: h["state"].update(counts_rows=False), "rows are counted"),
        (lambda h: h["config"].pop("catch_up"), "counts_rows must be what catch_up is"),
        (lambda h: h["config"].update(surprise=1), "Unexpected keyword .*surprise"),
        (lambda h: h["config"].update(learning_rate={}), "class_name"),
        (lambda h: h["config"].update(num_threads=10**9), "num_threads must be <= "),
        (lambda h: h["state"].update(is_excluded=[0]), "is_excluded must be a bool"),
        (lambda h: h["state"].update(is_excluded=[]), "must be of 1 variables, got 0"),
        (lambda h: h["state"].update(skipped_steps=-1), "skipped_steps must be >= 0"),
    ],
)
def test_a_forged_state_is_refused(path, edit, match):
    opt, _ = counting()
    opt.save(path)
    forge(path, edit)
    with pytest.raises(ValueError, match=f"state.npz' cannot be loaded: .*{match}"):
        load(path)


def test_row_counts_of_a_table_that_is_in_no_slot_are_not_allocated(path):
    opt = RMSprop(catch_up=True)
    opt.build([np.ones((4, 2))])
    opt.save(path)
    contents = members(path)
    del contents["slot.0.rms.npy"]
    rewrite(path, contents, comment(path))

    def edit(header):
        header["arrays"] = header["arrays"][1:]
        edit_spec(header, shape=[2**50, 2])

    forge(path, edit)
    with pytest.raises(ValueError, match="variable 0 must have a slot, got none"):
        load(path)


@pytest.mark.parametrize("key", ["slot.00.rms", "slot.0.r%6ds", "slot.+0.rms"])
def test_two_names_of_one_slot_are_refused(path, key):
    opt, _ = counting()
    opt.save(path)

    def edit(header):
        header["arrays"].append({**header["arrays"][0], "name": key})

    contents = members(path)
    contents[f"{key}.npy"] = contents["slot.0.rms.npy"]
    rewrite(path, contents, comment(path))
    forge(path, edit)
    with pytest.raises(ValueError, match=r"must be written as slot\.0\.rms"):
        load(path)


def test_a_deeply_nested_header_is_refused(path):
    opt, _ = trained()
    opt.save(path)
    text = b"[" * 10**6
    digest = b"sha256:" + hashlib.sha256(text).hexdigest().encode()
    rewrite(path, {**members(path), "header.json": text}, digest)
    with pytest.raises(ValueError, match="cannot be loaded: maximum recursion depth"):
        load(path)


def test_mutations_behind_right_checksums_are_refused_or_harmless(path, whole):
    """So the parsers of headers and arrays see them; the zip archive is right."""
    path.write_bytes(whole[1])
    contents, n_refused = members(path), 0
    rng = np.random.default_rng(5)
    for round_ in range(600):
        name = ("header.json", "slot.0.rms.npy")[round_ % 2]
        member = bytearray(contents[name])
        n = 1 + round_ % 4
        for position in rng.integers(0, min(len(member), 1000), n):
            member[position] = rng.choice(list(b"{}[]()'\",:-<f8O0912\n\0\xff"))
        if name == "header.json":
            text = bytes(member)
            digest = b"sha256:" + hashlib.sha256(text).hexdigest().encode()
            rewrite(path, {**contents, name: text}, digest)
        else:
            rewrite(path, {**contents, name: bytes(member)}, comment(path))
            forge(path, lambda header: None)
        n_refused += is_refused(path, path.read_bytes())
    assert n_refused > 300, "most mutations break something"


@pytest.mark.parametrize("size", [2**31, 2**62])
def test_a_member_that_claims_more_than_the_file_has_is_not_read(path, whole, size):
    path.write_bytes(whole[1])
    with zipfile.ZipFile(path, "a") as archive:
        for info in archive.infolist():
            info.file_size = info.compress_size = size
        archive._didModify = True  # writes the directory anew
    with pytest.raises(ValueError, match="its members are larger than the file"):
        load(path)


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code ran')",))


def test_a_pickle_in_a_file_is_never_unpickled(path):
    opt, _ = trained()
    opt.save(path)
    bomb = np.array([[Bomb()] * 3] * 4, object)

    def edit(header):
        header["arrays"][0]["dtype"] = "|O"

    forge(path, edit, slot_0_rms=bomb)
    with pytest.raises(
        ValueError, match=r"cannot be loaded: array slot\.0\.rms has dt"
    ):
        load(path)


def test_an_array_of_another_npy_version_is_refused(path):
    opt, _ = trained()
    opt.save(path)
    contents, stream = members(path), io.BytesIO()
    np.lib.format.write_array(stream, opt.weights[1], version=(2, 0))
    contents["slot.0.rms.npy"] = stream.getvalue()
    rewrite(path, contents, comment(path))
    forge(path, lambda header: None)
    with pytest.raises(ValueError, match=r"array slot\.0\.rms is not the one"):
        load(path)


def test_an_array_that_claims_more_than_the_file_has_is_not_allocated(path):
    opt, _ = trained()
    opt.save(path)
    contents = members(path)
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f8", "fortran_order": False, "shape": (2**50,)}
    )
    contents["slot.0.rms.npy"] = stream.getvalue()
    rewrite(path, contents, comment(path))
    forge(path, lambda h: h["arrays"][0].update(shape=[2**50]))
    with pytest.raises(ValueError, match=r"slot\.0\.rms has not the size of its shape"):
        load(path)


def test_an_array_of_an_unknown_kind_is_refused(path):
    opt, _ = trained()
    opt.save(path)

    def edit(header):
        header["arrays"].append({**header["arrays"][0], "name": "more.0.rms"})

    forge(path, edit, more_0_rms=opt.weights[1])
    with pytest.raises(ValueError, match=r"more\.0\.rms is of no kind that this rms"):
        load(path)


def test_a_compressed_file_is_refused(path):
    opt, _ = trained()
    opt.save(path)
    rewrite(path, members(path), comment(path), zipfile.ZIP_DEFLATED)
    with pytest.raises(
        ValueError, match=r"cannot be loaded: slot\.0\.rms\.npy is compr"
    ):
        load(path)


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy():
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return stream.getvalue()


FOREIGN = {
    "empty": (b"", "it is empty"),
    "text": (b"weights", "it is no .npz file"),
    "pickle": (pickle.dumps(Bomb()), "it is no .npz file"),
    "npy": (npy(), "it is no .npz file"),
    "npz": (
        npz(a=np.ones(3)),
        "no checkpoint of rmsprop_fast, .* header.json but a.npy",
    ),
    "empty npz": (npz(), "no checkpoint .* but nothing"),
    "half a zip": (npz(a=np.ones(3))[:40], "truncated or damaged"),
}


@pytest.mark.parametrize(("data", "match"), FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused(path, data, match):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"state.npz' cannot be loaded: .*{match}"):
        load(path)


# --- Files ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path, os.fsencode], ids=["str", "Path", "bytes"])
def test_a_path_may_be_of_any_kind_and_is_taken_as_it_is(tmp_path, kind):
    opt, _ = trained()
    name = tmp_path / "no suffix é"
    opt.save(kind(name))
    assert [p.name for p in tmp_path.iterdir()] == [name.name]
    assert same(opt, load(kind(name)))


@pytest.mark.parametrize("path", [io.BytesIO(), 3, None])
def test_what_is_no_path_is_refused(path):
    match = "path must be a str or an os.PathLike, got "
    with pytest.raises(TypeError, match=match):
        RMSprop().save(path)
    with pytest.raises(TypeError, match=match):
        load(path)


def test_a_missing_file_or_folder_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError):
        RMSprop().save(tmp_path / "none" / "state.npz")


def test_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        RMSprop().save(tmp_path)
    with pytest.raises(IsADirectoryError):
        load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the platform has no pipes")
def test_a_device_or_pipe_is_not_replaced(path):
    os.mkfifo(path)
    with pytest.raises(ValueError, match="path must be a regular file, got "):
        RMSprop().save(path)
    assert stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_permissions_are_the_users_for_a_new_file_and_stay_for_an_old_one(path):
    umask = os.umask(0o027)
    try:
        RMSprop().save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        RMSprop().save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(umask)


PERMISSIONS = """
import os, sys, tempfile
from pathlib import Path

from rmsprop_fast import RMSprop, load

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "state.npz")
    RMSprop(0.5).save(path)
    load(path)  # imports what another user might not be able to read
    if os.geteuid() == 0:  # root may do anything
        os.chown(folder, 65534, 65534)
        os.chown(path, 65534, 65534)
        os.seteuid(65534)
    path.parent.chmod(0o333)  # may be written, and not read
    RMSprop(0.5).save(path)
    path.parent.chmod(0o700)
    print(*os.listdir(folder))
    for forbidden, mode in [(path, 0o444), (path.parent, 0o555)]:
        before = forbidden.stat().st_mode
        forbidden.chmod(mode)
        try:
            RMSprop().save(path)
        except PermissionError as error:
            print(Path(error.filename).parent == path.parent)
        forbidden.chmod(before)
        print(load(path).learning_rate, *os.listdir(folder))
    os.seteuid(os.getuid())
"""


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_permissions_of_file_and_folder_to_write_are_asked_for_and_no_others():
    done = subprocess.run(
        [sys.executable, "-c", PERMISSIONS], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["state.npz", *["True", "0.5", "state.npz"] * 2]


def test_a_symbolic_link_is_followed(tmp_path, path):
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "real.npz"
    path.symlink_to(target)
    for rate in (0.25, 0.5):  # first it dangles
        RMSprop(rate).save(path)
        assert path.is_symlink()
        assert load(target).learning_rate == rate


def test_a_long_name_is_no_obstacle(tmp_path):
    path = tmp_path / ("é" * 125 + ".npz")  # 254 of 255 bytes
    RMSprop(0.5).save(path)
    assert load(path).learning_rate == 0.5


def test_the_bytes_are_on_the_disk_before_the_name_is(path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(fd):
        is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        calls.append("folder" if is_folder else f"file of {os.fstat(fd).st_size}")
        fsync(fd)

    def noted_replace(source, target):
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    RMSprop().save(path)
    assert calls[:2] == [f"file of {path.stat().st_size}", "rename"]
    assert calls[2:] == (["folder"] if hasattr(os, "O_DIRECTORY") else [])


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_what_fails_leaves_the_old_file_alone(path, monkeypatch, fails):
    RMSprop(0.5).save(path)

    def fail(*arguments):
        raise OSError(28, "No space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, fail)
        with pytest.raises(OSError, match="No space left"):
            RMSprop(0.25).save(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert load(path).learning_rate == 0.5


FORMAT = [archive.__file__, checkpoint.__file__]

# An interrupted zipfile complains when it is collected: its file is closed by then.
LEFT_OPEN = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@LEFT_OPEN
def test_save_interrupted_at_any_line_leaves_the_old_file_or_the_new_one(path):
    (old, variables), (new, _) = trained(rho=0.5), trained(rho=0.25)
    lines = lines_of(lambda: new.save(path, variables), FORMAT)
    old.save(path, variables)
    data = path.read_bytes()
    seen = set()
    with nothing_changes(new, *variables):
        for k in range(len(lines)):
            with interrupted_at(k, FORMAT) as fault:
                new.save(path, variables)
            assert fault.happened
            assert [p.name for p in path.parent.iterdir()] == [path.name], fault.place
            seen.add(load(path, []).rho)
            path.write_bytes(data)
    assert seen == {0.5, 0.25}, "before and after the rename"
    new.save(path, variables)


@LEFT_OPEN
def test_load_interrupted_at_any_line_can_be_repeated(path):
    opt, variables = trained()
    opt.save(path, variables)
    again = [np.zeros_like(var) for var in variables]
    lines = lines_of(lambda: load(path, again), FORMAT)
    assert len(lines) > 50
    for k in range(len(lines)):
        with interrupted_at(k, FORMAT):
            load(path, again)
    load(path, again)
    assert bits(again) == bits(variables)


class FullDisk(io.BufferedWriter):
    """A file on a disk that has room for so many bytes."""

    room = 0

    def write(self, data):
        if self.tell() + len(data) > self.room:
            raise OSError(28, "No space left on device")
        return super().write(data)


def test_a_disk_that_is_full_at_any_byte_leaves_the_old_file(path, monkeypatch):
    (old, variables), (new, _) = trained(rho=0.5), trained(rho=0.25)
    old.save(path, variables)
    data = path.read_bytes()

    def open_full(name, mode):
        return FullDisk(io.FileIO(name, mode.replace("b", "")))

    monkeypatch.setattr(archive, "open", open_full, raising=False)
    with nothing_changes(new, *variables):
        for room in range(0, len(data), 23):
            monkeypatch.setattr(FullDisk, "room", room)
            with pytest.raises(OSError, match="No space left"):
                new.save(path, variables)
            assert path.read_bytes() == data
            assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_processes_that_save_to_one_path_leave_one_whole_file(path):
    opts = [RMSprop(2.0**-k) for k in range(4)]

    def work(opt):
        for _ in range(10):
            opt.save(path)

    threads = [threading.Thread(target=work, args=(opt,)) for opt in opts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert load(path).learning_rate in {2.0**-k for k in range(4)}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# --- Killed ---------------------------------------------------------------------------

KILL = """
import os, random, signal, sys, time
from pathlib import Path

import numpy as np

from rmsprop_fast import RMSprop, load

path, n = Path(sys.argv[1]), int(sys.argv[3])


def state(k):
    opt, var = RMSprop(2.0**-k, momentum=0.5), np.full(n, float(k))
    opt.build([var])
    for slot in opt.weights:
        slot[...] = k
    return opt, var


def found():
    var = np.zeros(n)
    opt = load(path, [var])
    k = opt.iterations
    assert opt.learning_rate == 2.0**-k
    assert all((array == k).all() for array in [var, *opt.weights])
    return k


def left():
    return [p for p in path.parent.iterdir() if p != path]


def killed(action, delay=None):
    child = os.fork()
    if not child:
        try:
            action()
        finally:
            os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    return os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def traced(opt, var, stop=None):
    files = []

    def line(frame, event, arg):
        files.append(frame.f_code.co_filename)
        if len(files) == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return line

    sys.settrace(line)
    opt.save(path, [var])
    sys.settrace(None)
    return files


def at_every_line():
    old, new = state(1), state(2)
    old[0].save(path, [old[1]])  # imports what it needs
    files = traced(*old)
    # Every line of ours, some of those of zipfile and NumPy.
    stops = [
        stop
        for stop, file in enumerate(files, 1)
        if file.endswith(("archive.py", "checkpoint.py")) or stop % 20 == 0
    ]
    seen = {1: 0, 2: 0}
    for stop in stops[:-5]:  # the last ones end the tracing
        assert killed(lambda: traced(*new, stop)), f"{stop} of {len(files)}"
        k = found()
        seen[k] += 1
        if k == 2:
            old[0].save(path, [old[1]])
    return seen


def at_any_moment():
    states = [state(k) for k in range(1, 9)]
    states[0][0].save(path, [states[0][1]])
    seen = dict.fromkeys(range(1, 9), 0)

    def save_for_ever():
        while True:
            for opt, var in states:
                opt.save(path, [var])

    draw, end = random.Random(7), time.monotonic() + 120
    rounds, slowness = 0, 0.05
    while rounds < 40 or sum(map(bool, seen.values())) < 2 or not left():
        assert time.monotonic() < end, seen
        assert killed(save_for_ever, draw.uniform(0.0, slowness))
        seen[found()] += 1
        rounds += 1
        if rounds % 40 == 0:
            slowness *= 4  # a machine that is busy, or a slow disk
    return seen


seen = {"line": at_every_line, "moment": at_any_moment}[sys.argv[2]]()
assert all(p.name.startswith(".state.npz.") and p.suffix == ".tmp" for p in left())
print(sum(count > 0 for count in seen.values()), len(left()))
"""


@needs_fork
@pytest.mark.parametrize(("when", "n"), [("line", 100), ("moment", 200_000)])
def test_a_process_killed_in_save_leaves_the_old_file_or_the_new_one(tmp_path, when, n):
    script = tmp_path / "kill.py"
    script.write_text(KILL)
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / "state.npz"
    done = subprocess.run(
        [sys.executable, str(script), str(path), when, str(n)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    n_states, n_left = map(int, done.stdout.split())
    assert n_states >= 2, "before and after the rename"
    assert n_left > 0, "and while the new file was written"
