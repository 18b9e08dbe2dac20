# cython: language_level=3, boundscheck=False, wraparound=False
"""Matrix factorisation: a rating is the product of a user's and an item's factors."""

from libc.math cimport INFINITY

from rmsprop_fast.header cimport (
    rmsprop_coef_f32, rmsprop_coef_make_f32, rmsprop_grad_f32, rmsprop_update_f32,
)
from rmsprop_fast.kernels cimport rmsprop_rows_f32

from rmsprop_fast import kernels


def one_by_one(
    float[:, ::1] users, float[:, ::1] items, float[:, ::1] users_rms,
    float[:, ::1] items_rms, const Py_ssize_t[::1] user, const Py_ssize_t[::1] item,
    const float[::1] rating, double learning_rate,
):
    """Make a step for every rating, fused: the gradient is never an array."""
    cdef Py_ssize_t k, f, u, i, width = users.shape[1]
    cdef float error, user_grad, item_grad
    # lr, rho, momentum, epsilon, keep, grad_scale, clip
    cdef rmsprop_coef_f32 c = rmsprop_coef_make_f32(
        learning_rate, 0.9, 0.0, 1e-7, 1.0, 1.0, INFINITY)
    with nogil:
        for k in range(rating.shape[0]):
            u, i = user[k], item[k]
            error = -rating[k]
            for f in range(width):
                error += users[u, f] * items[i, f]
            for f in range(width):
                user_grad = error * items[i, f]
                item_grad = error * users[u, f]
                rmsprop_update_f32(
                    &users[u, f], rmsprop_grad_f32(user_grad, c), &users_rms[u, f],
                    NULL, NULL, c, False, False, True)
                rmsprop_update_f32(
                    &items[i, f], rmsprop_grad_f32(item_grad, c), &items_rms[i, f],
                    NULL, NULL, c, False, False, True)


def in_batches(
    float[:, ::1] users, float[:, ::1] items, float[:, ::1] users_rms,
    float[:, ::1] items_rms, const Py_ssize_t[::1] user, const Py_ssize_t[::1] item,
    const float[::1] rating, double learning_rate, float[:, ::1] users_grad,
    float[:, ::1] items_grad,
):
    """Make a step for every batch: the gradients of its rows, then both updates.

    A user who rated several items of the batch gets the sum of these gradients.
    """
    cdef Py_ssize_t first = 0, k, f, u, i, width = users.shape[1]
    cdef Py_ssize_t size = users_grad.shape[0], n
    cdef float error
    cdef int status = 0
    with nogil:
        while status == 0 and first < rating.shape[0]:
            n = min(size, rating.shape[0] - first)
            for k in range(n):
                u, i = user[first + k], item[first + k]
                error = -rating[first + k]
                for f in range(width):
                    error += users[u, f] * items[i, f]
                for f in range(width):
                    users_grad[k, f] = error * items[i, f]
                    items_grad[k, f] = error * users[u, f]
            status = rmsprop_rows_f32(
                &users[0, 0], &users_grad[0, 0], &users_rms[0, 0], NULL, NULL,
                &user[first], n, users.shape[0], width,
                learning_rate, 0.9, 0.0, 1e-7, 1.0, 1.0, INFINITY, 1, 2)
            if status == 0:
                status = rmsprop_rows_f32(
                    &items[0, 0], &items_grad[0, 0], &items_rms[0, 0], NULL, NULL,
                    &item[first], n, items.shape[0], width,
                    learning_rate, 0.9, 0.0, 1e-7, 1.0, 1.0, INFINITY, 1, 2)
            first += n
    kernels.check(status)
