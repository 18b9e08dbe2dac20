"""Train the same model with RMSprop.apply_gradients: do the bits agree?"""

import math
import re
from pathlib import Path

import numpy as np

from rmsprop_fast import RMSprop

LETTERS = " abcdefghijklmnopqrstuvwxyz"

text = re.sub("[^a-z]+", " ", Path("gettysburg.txt").read_text().lower())
counts = np.zeros((27 * 27, 27))
for first, second, third in zip(text, text[1:], text[2:], strict=False):
    row = LETTERS.index(first) * 27 + LETTERS.index(second)
    counts[row, LETTERS.index(third)] += 1


def softmax(scores):
    """C++ adds one number after the other; so does this, where NumPy would not."""
    chances = [math.exp(score) for score in scores.tolist()]
    total = 0.0
    for chance in chances:
        total += chance
    return [chance / total for chance in chances]


table = np.zeros_like(counts, np.float32)
grad = np.zeros_like(table)
opt = RMSprop(learning_rate=0.05)
for _ in range(100):
    for row in np.flatnonzero(counts.any(axis=1)):  # the others' gradient is zero
        grad[row] = counts[row].sum() * np.array(softmax(table[row])) - counts[row]
    opt.apply_gradients([(grad, table)])

equal = table.tobytes() == np.fromfile("table.bin", np.float32).tobytes()
print("bit for bit the table of apply_gradients:", equal)
