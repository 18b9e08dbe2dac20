"""Word embeddings, skip-gram with negative samples, trained in compiled code."""

import math
import re
from pathlib import Path

import numpy as np
from numba import njit

from rmsprop_fast import IndexedSlices, RMSprop, kernels

WIDTH, BATCH, PASSES, LEARNING_RATE = 8, 64, 10, 0.02

# A ctypes function with its types: compiled code calls it without the GIL.
rmsprop_rows_f32 = kernels.function("rmsprop_rows_f32")


@njit
def gradients(words, contexts, word, context, is_pair, words_grad, contexts_grad):
    """Fill in the gradients of a batch's rows; return the sum of its losses."""
    loss = 0.0
    for k in range(len(word)):
        w, c = words[word[k]], contexts[context[k]]
        score = 0.0
        for f in range(WIDTH):
            score += w[f] * c[f]
        chance = 1 / (1 + math.exp(-score))
        loss -= math.log(chance if is_pair[k] else 1 - chance)
        error = np.float32(chance - is_pair[k])
        for f in range(WIDTH):
            words_grad[k, f] = error * c[f]
            contexts_grad[k, f] = error * w[f]
    return loss


@njit
def update(table, grad, rms, rows, n):
    """Update some rows of a table: pointers are addresses, NULL is 0."""
    return rmsprop_rows_f32(
        *(table.ctypes.data, grad.ctypes.data, rms.ctypes.data, 0, 0),  # mg, mom
        *(rows.ctypes.data, n, table.shape[0], table.shape[1]),
        *(LEARNING_RATE, 0.9, 0.0, 1e-7),  # lr, rho, momentum, epsilon
        *(1.0, 1.0, math.inf, 1, 0),  # keep, grad_scale, clip, eps_in_sqrt, num_threads
    )


@njit(nogil=True)
def train(words, contexts, word, context, is_pair):
    """Train in compiled code from end to end; return a status and the last loss."""
    words_rms, contexts_rms = np.zeros_like(words), np.zeros_like(contexts)
    grads = np.empty((2, BATCH, WIDTH), np.float32)
    loss = 0.0
    for _ in range(PASSES):
        loss = 0.0
        for first in range(0, len(word), BATCH):
            w, c = word[first : first + BATCH], context[first : first + BATCH]
            target = is_pair[first : first + BATCH]
            loss += gradients(words, contexts, w, c, target, grads[0], grads[1])
            status = update(words, grads[0], words_rms, w, len(w))
            if status == 0:
                status = update(contexts, grads[1], contexts_rms, c, len(c))
            if status != 0:
                return status, loss
    return 0, loss / len(word)


def facade(words, contexts, word, context, is_pair):
    """Train the same with apply_gradients."""
    opt = RMSprop(LEARNING_RATE)
    for _ in range(PASSES):
        for first in range(0, len(word), BATCH):
            batch = slice(first, first + BATCH)
            w, c = word[batch], context[batch]
            grads = np.empty((2, len(w), WIDTH), np.float32)
            gradients(words, contexts, w, c, is_pair[batch], grads[0], grads[1])
            opt.apply_gradients(
                [
                    (IndexedSlices(grads[0], w), words),
                    (IndexedSlices(grads[1], c), contexts),
                ]
            )


# Every word with its two neighbours on either side, and with four random words.
text = re.findall("[a-z]+", Path("gettysburg.txt").read_text().lower())
names, ids = np.unique(text, return_inverse=True)
rng = np.random.default_rng(1)
pairs = [
    (ids[k], ids[k + shift], 1.0)
    for k in range(2, len(ids) - 2)
    for shift in (-2, -1, 1, 2)
]
pairs += [(word, rng.choice(ids), 0.0) for word, _, _ in pairs]
pairs = [pairs[k] for k in rng.permutation(len(pairs))]
word, context = np.array([pair[:2] for pair in pairs], np.intp).T.copy()
is_pair = np.array([pair[2] for pair in pairs])
start = (rng.random((2, len(names), WIDTH)) - 0.5).astype(np.float32)

words, contexts = start.copy()
status, loss = train(words, contexts, word, context, is_pair)
kernels.check(status)
print(f"{len(names)} words, {len(pairs)} pairs, mean loss {loss:.3f}")

expected = start.copy()
facade(*expected, word, context, is_pair)
equal = words.tobytes() + contexts.tobytes() == expected.tobytes()
print("bit for bit the tables of apply_gradients:", equal)
