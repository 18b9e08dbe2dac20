"""Learn ratings in compiled loops, then with RMSprop.apply_gradients: the same bits?"""

import factorise
import numpy as np

from rmsprop_fast import IndexedSlices, RMSprop

N_USERS, N_ITEMS, N_RATINGS, WIDTH, BATCH = 100, 60, 4000, 4, 100

# Ratings that four factors explain, up to noise; a fifth is kept for the test.
rng = np.random.default_rng(1)
true_users = rng.standard_normal((N_USERS, WIDTH))
true_items = rng.standard_normal((N_ITEMS, WIDTH))
user, item = (
    rng.integers(N_USERS, size=N_RATINGS),
    rng.integers(N_ITEMS, size=N_RATINGS),
)
rating = np.sum(true_users[user] * true_items[item], axis=1)
rating = (rating + 0.3 * rng.standard_normal(N_RATINGS)).astype(np.float32)
start_users = (0.5 * rng.standard_normal((N_USERS, WIDTH))).astype(np.float32)
start_items = (0.5 * rng.standard_normal((N_ITEMS, WIDTH))).astype(np.float32)
train, test = slice(0, 3200), slice(3200, None)
ratings = user[train], item[train], rating[train]


def error(users, items):
    """Return the root mean square error of the ratings kept for the test."""
    predicted = np.sum(users[user[test]] * items[item[test]], axis=1)
    return np.sqrt(np.mean((predicted - rating[test]) ** 2))


def begin():
    """Return both tables at their start, and zeros for what RMSprop keeps of each."""
    tables = start_users.copy(), start_items.copy()
    return *tables, *map(np.zeros_like, tables)


def gradients(users, items, u, i, r):
    """Return the factors' gradients, added up in the order in which C adds them."""
    e = -r
    for f in range(WIDTH):
        e = e + users[u, f] * items[i, f]
    return e[:, None] * items[i], e[:, None] * users[u]


def facade(learning_rate, passes, batch):
    """Return the tables that apply_gradients makes of the same ratings."""
    users, items, *_ = begin()
    opt = RMSprop(learning_rate)
    for _ in range(passes):
        for first in range(0, 3200, batch):
            u, i, r = (column[first : first + batch] for column in ratings)
            users_grad, items_grad = gradients(users, items, u, i, r)
            opt.apply_gradients(
                [
                    (IndexedSlices(users_grad, u), users),
                    (IndexedSlices(items_grad, i), items),
                ]
            )
    return users.tobytes() + items.tobytes()


print(f"guessing zero: error {np.sqrt(np.mean(rating[test] ** 2)):.2f}")

users, items, users_rms, items_rms = begin()
for _ in range(10):
    factorise.one_by_one(users, items, users_rms, items_rms, *ratings, 0.05)
print(f"one by one: error {error(users, items):.2f}")
equal = users.tobytes() + items.tobytes() == facade(0.05, 10, 1)
print("bit for bit the tables of apply_gradients:", equal)

users, items, users_rms, items_rms = begin()
grads = np.empty((BATCH, WIDTH), np.float32), np.empty((BATCH, WIDTH), np.float32)
for _ in range(20):
    factorise.in_batches(users, items, users_rms, items_rms, *ratings, 0.02, *grads)
print(f"in batches: error {error(users, items):.2f}")
equal = users.tobytes() + items.tobytes() == facade(0.02, 20, BATCH)
print("bit for bit the tables of apply_gradients:", equal)
