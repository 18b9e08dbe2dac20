/* Loops over the formula of rmsprop_element_body.h, in RMSPROP_REAL: one thread, no
 * allocation. rmsprop.h includes this once per type, after the formula.
 *
 * In every function
 *   - `variant`, or centered, momentum and eps_in_sqrt, must be literals at the call
 *     site: each combination becomes a loop without branches, which compilers vectorise;
 *   - mg is read and written only if centered, mom only if momentum; either may be NULL
 *     otherwise;
 *   - the arrays must not overlap: the compiler relies on it;
 *   - gradients are raw: c scales and clips them.
 */

/* Update n contiguous elements.
 *
 *   param, rms, mg, mom   n elements each, read and written
 *   grad                  n elements, read
 *
 * Elements do not depend on each other: threads may divide an array in any way.
 * One row of a table is `param + row * width` and so on, with n = width. */
RMSPROP_INLINE void RMSPROP_NAME(span)(
    RMSPROP_NAME(out) param, RMSPROP_NAME(in) grad, RMSPROP_NAME(out) rms,
    RMSPROP_NAME(out) mg, RMSPROP_NAME(out) mom, ptrdiff_t n, RMSPROP_NAME(coef) c,
    const int variant)
{
    ptrdiff_t i;
    for (i = 0; i < n; i++)
        RMSPROP_NAME(element)(
            &param[i], RMSPROP_NAME(grad)(grad[i], c), &rms[i],
            variant & RMSPROP_CENTERED ? &mg[i] : (RMSPROP_REAL *)0,
            variant & RMSPROP_MOMENTUM ? &mom[i] : (RMSPROP_REAL *)0, c, variant);
}

/* The same for a variant that is known when the program runs: a loop for each. */
RMSPROP_INLINE void RMSPROP_NAME(variant_span)(RMSPROP_REAL *param,
                                               const RMSPROP_REAL *grad,
                                               RMSPROP_REAL *const *slots, ptrdiff_t n,
                                               RMSPROP_NAME(coef) c, int variant)
{
    RMSPROP_FOR_VARIANT(variant, RMSPROP_NAME(span), param, grad,
                        slots[RMSPROP_SLOT_RMS], slots[RMSPROP_SLOT_MG],
                        slots[RMSPROP_SLOT_MOM], n, c)
}

/* The same for literal flags. */
RMSPROP_INLINE void RMSPROP_NAME(dense_span)(
    RMSPROP_NAME(out) param, RMSPROP_NAME(in) grad, RMSPROP_NAME(out) rms,
    RMSPROP_NAME(out) mg, RMSPROP_NAME(out) mom, ptrdiff_t n, RMSPROP_NAME(coef) c,
    const int centered, const int momentum, const int eps_in_sqrt)
{
    RMSPROP_NAME(span)
    (param, grad, rms, mg, mom, n, c, RMSPROP_VARIANT(centered, momentum, eps_in_sqrt));
}

/* out[0:n] = grad[0:n] as the update sees it, scaled and clipped; with the literal
 * add = 1 out[0:n] += that, for gradients that have several terms. */
RMSPROP_INLINE void RMSPROP_NAME(grad_span)(RMSPROP_NAME(out) out, RMSPROP_NAME(in) grad,
                                            ptrdiff_t n, RMSPROP_NAME(coef) c,
                                            const int add)
{
    ptrdiff_t i;
    for (i = 0; i < n; i++) {
        const RMSPROP_REAL g = RMSPROP_NAME(grad)(grad[i], c);
        out[i] = add ? out[i] + g : g;
    }
}

/* total[0:n] = the sum of n columns of rows first to last of values, scaled and clipped:
 * in order, starting from the first, runs of RMSPROP_SUM_RUN, then the runs' sums. For
 * n <= RMSPROP_SUM_BLOCK. A row stands at positions[k], or at k when positions is NULL. */
RMSPROP_INLINE void RMSPROP_NAME(sum_rows)(
    RMSPROP_REAL *total, const RMSPROP_REAL *values, const ptrdiff_t *positions,
    ptrdiff_t first, ptrdiff_t last, ptrdiff_t width, ptrdiff_t n, RMSPROP_NAME(coef) c)
{
    RMSPROP_REAL partial[RMSPROP_SUM_BLOCK];
    RMSPROP_REAL *sum = total;
    ptrdiff_t k = first, j, end;
    while (k < last) {
        end = last - k < RMSPROP_SUM_RUN ? last : k + RMSPROP_SUM_RUN;
        RMSPROP_NAME(grad_span)(sum, values + (positions ? positions[k] : k) * width, n,
                                c, 0);
        for (k++; k < end; k++)
            RMSPROP_NAME(grad_span)(sum, values + (positions ? positions[k] : k) * width,
                                    n, c, 1);
        if (sum != total)
            for (j = 0; j < n; j++)
                total[j] += partial[j];
        sum = partial;
    }
}

/* Update some rows of a table from a row-sparse gradient; other rows do not change.
 *
 *   param, rms, mg, mom   n_rows x width elements, row after row, read and written
 *   values                one row of width elements for each of n gradients, read
 *   rows                  n row numbers in [0, n_rows), ascending
 *   positions             the k-th gradient is row positions[k] of values;
 *                         NULL: it is row k, values are in the order of rows
 *
 * A row that occurs several times gets the sum of its gradients, in the order given, and
 * one update. A stable sort by row, of the rows or of (row, position), is what makes
 * the bits equal to those of a step on the unsorted gradient.
 *
 * Returns -1 when done, or the first k at which rows[k] is out of range or smaller than
 * rows[k - 1]; nothing has been changed then. positions are not checked. */
RMSPROP_INLINE ptrdiff_t RMSPROP_NAME(rows_span)(
    RMSPROP_NAME(out) param, RMSPROP_NAME(in) values, RMSPROP_NAME(out) rms,
    RMSPROP_NAME(out) mg, RMSPROP_NAME(out) mom, const ptrdiff_t *rows,
    const ptrdiff_t *positions, ptrdiff_t n, ptrdiff_t n_rows, ptrdiff_t width,
    RMSPROP_NAME(coef) c, const int centered, const int momentum, const int eps_in_sqrt)
{
    RMSPROP_REAL total[RMSPROP_SUM_BLOCK];
    RMSPROP_NAME(coef) identity = c; /* takes a sum as it is */
    ptrdiff_t k, last, column, size, at, from;

    identity.grad_scale = (RMSPROP_REAL)1;
    identity.clip = (RMSPROP_REAL)RMSPROP_INFINITY;
    for (k = 0; k < n; k++)
        if (rows[k] < 0 || rows[k] >= n_rows || (k > 0 && rows[k] < rows[k - 1]))
            return k;
    for (k = 0; k < n; k = last) {
        last = k + 1;
        while (last < n && rows[last] == rows[k])
            last++;
        at = rows[k] * width;
        if (last == k + 1) {
            from = (positions ? positions[k] : k) * width;
            RMSPROP_NAME(dense_span)(param + at, values + from, rms + at,
                                     centered ? mg + at : (RMSPROP_REAL *)0,
                                     momentum ? mom + at : (RMSPROP_REAL *)0, width, c,
                                     centered, momentum, eps_in_sqrt);
            continue;
        }
        for (column = 0; column < width; column += size) {
            size = width - column < RMSPROP_SUM_BLOCK ? width - column
                                                      : RMSPROP_SUM_BLOCK;
            RMSPROP_NAME(sum_rows)(total, values + column, positions, k, last, width,
                                   size, c);
            RMSPROP_NAME(dense_span)(param + at + column, total, rms + at + column,
                                     centered ? mg + at + column : (RMSPROP_REAL *)0,
                                     momentum ? mom + at + column : (RMSPROP_REAL *)0,
                                     size, identity, centered, momentum, eps_in_sqrt);
        }
    }
    return -1;
}
