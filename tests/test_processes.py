"""Worker processes of every kind, beside and after threaded steps: the same bits."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

# A file of its own: workers that are not forked import the main module again.
SCRIPT = """
import multiprocessing, sys, threading, warnings
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from rmsprop_fast import IndexedSlices, RMSprop
from rmsprop_fast.cpu import _step

_step.set_serial_below(0)
# Python warns of forks beside threads; that they work is what is tested.
warnings.simplefilter("ignore", DeprecationWarning)


def train(seed):
    rng = np.random.default_rng(seed)
    table, bias = rng.standard_normal((2000, 16)), np.ones(50_000, np.float32)
    opt = RMSprop(0.01, momentum=0.9, centered=True, num_threads=2, clipnorm=1.0)
    for _ in range(3):
        rows = IndexedSlices(rng.standard_normal((500, 16)), rng.integers(0, 2000, 500))
        grad = rng.standard_normal(50_000).astype(np.float32)
        opt.apply_gradients([(rows, table), (grad, bias)])
    return table.tobytes() + bias.tobytes()


def keep_training(stop):
    while not stop.is_set():
        train(99)


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    here = [train(seed) for seed in range(4)]
    stop = threading.Event()
    beside = threading.Thread(target=keep_training, args=(stop,))
    if sys.argv[2] == "during":
        beside.start()
    if sys.argv[3] == "Pool":
        with context.Pool(2) as pool:
            there = pool.map_async(train, range(4)).get(60)
    else:
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            there = list(pool.map(train, range(4), timeout=60))
    stop.set()
    if beside.ident:
        beside.join()
    print(there == here, [train(seed) for seed in range(4)] == here)
"""


@pytest.mark.parametrize("executor", ["Pool", "ProcessPoolExecutor"])
@pytest.mark.parametrize("moment", ["after", "during"])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_train_to_the_same_bits(
    tmp_path: Path, method: str, moment: str, executor: str
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this platform")
    path = tmp_path / "main.py"
    path.write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, str(path), method, moment, executor],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["True", "True"]
