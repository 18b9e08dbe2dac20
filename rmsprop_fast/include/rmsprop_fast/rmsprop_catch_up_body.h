/* Steps with a zero gradient, many at once, in RMSPROP_REAL. rmsprop.h includes this
 * once per type, after the formula that this is the closed form of.
 *
 * A gradient of zero makes rmsprop_update, without weight decay, do
 *   rms = rho*rms,  mg = rho*mg,  mom = momentum*mom,  param = param - mom,
 * so that k of them are
 *   rms = rho^k * rms,  mg = rho^k * mg,
 *   param = param - (momentum + momentum^2 + ... + momentum^k) * mom,
 *   mom = momentum^k * mom.
 *
 * The factors are doubles, of the coefficients rounded to RMSPROP_REAL, and come from
 * products and sums alone: pow has other bits on other machines.
 */

/* The factors of k steps with a zero gradient; for k = 0 they are 1, 1 and 0. */
typedef struct {
    double rho;      /* rho^k */
    double momentum; /* momentum^k */
    double reach;    /* momentum + ... + momentum^k; k itself when momentum is 1 */
} RMSPROP_NAME(idle);

/* First a, then b. Nothing is subtracted: each operation adds one rounding. */
RMSPROP_INLINE RMSPROP_NAME(idle)
RMSPROP_NAME(idle_then)(RMSPROP_NAME(idle) a, RMSPROP_NAME(idle) b)
{
    RMSPROP_NAME(idle) both;
    both.rho = a.rho * b.rho;
    both.momentum = a.momentum * b.momentum;
    both.reach = a.reach + a.momentum * b.reach;
    return both;
}

/* powers[j] = 2^j steps, for every bit of most_steps. There are at most 63 of them: more
 * than 2^63 - 1 steps count as so many, here and below. */
RMSPROP_INLINE void RMSPROP_NAME(idle_powers)(RMSPROP_NAME(idle) *powers,
                                              RMSPROP_NAME(coef) c,
                                              unsigned long long most_steps)
{
    /* volatile, or else GCC 12 loses the rounding of c: where two neighbours go from
     * double to float and back it vectorises the way, and then takes it for none. */
    const volatile RMSPROP_REAL rho = c.rho, momentum = c.momentum;
    powers->rho = (double)rho;
    powers->momentum = powers->reach = (double)momentum;
    most_steps = RMSPROP_AT_MOST_63_BITS(most_steps);
    while ((most_steps >>= 1) != 0) {
        powers[1] = RMSPROP_NAME(idle_then)(powers[0], powers[0]);
        ++powers;
    }
}

/* Any number of steps up to most_steps: the bits of the number, the lowest first. */
RMSPROP_INLINE RMSPROP_NAME(idle)
RMSPROP_NAME(idle_steps)(const RMSPROP_NAME(idle) *powers, unsigned long long steps)
{
    RMSPROP_NAME(idle) all;
    all.rho = all.momentum = 1;
    all.reach = 0;
    steps = RMSPROP_AT_MOST_63_BITS(steps);
    for (; steps != 0; steps >>= 1, ++powers)
        if (steps & 1)
            all = RMSPROP_NAME(idle_then)(all, *powers);
    return all;
}

/* Catch up one element in place. centered and momentum as for rmsprop_update; param
 * is read and written only if momentum. Factors are rounded before they multiply, and
 * are flushed like the slots: a slot that decays by more than that is as good as zero. */
RMSPROP_INLINE void RMSPROP_NAME(catch_up)(RMSPROP_REAL *param, RMSPROP_REAL *rms,
                                           RMSPROP_REAL *mg, RMSPROP_REAL *mom,
                                           RMSPROP_NAME(idle) idle, int centered,
                                           int momentum)
{
    const RMSPROP_REAL rho = RMSPROP_NAME(flush)((RMSPROP_REAL)idle.rho);
    *rms = RMSPROP_NAME(flush)(rho * *rms);
    if (centered)
        *mg = RMSPROP_NAME(flush)(rho * *mg);
    if (momentum) {
        *param = *param - (RMSPROP_REAL)idle.reach * *mom;
        *mom = RMSPROP_NAME(flush)(RMSPROP_NAME(flush)((RMSPROP_REAL)idle.momentum) *
                                   *mom);
    }
}

/* Apply the same number of missed steps to n contiguous elements. */
RMSPROP_INLINE void RMSPROP_NAME(catch_up_span)(
    RMSPROP_NAME(out) param, RMSPROP_NAME(out) rms, RMSPROP_NAME(out) mg,
    RMSPROP_NAME(out) mom, ptrdiff_t n, RMSPROP_NAME(idle) idle, const int variant)
{
    const int centered = variant & RMSPROP_CENTERED, momentum = variant & RMSPROP_MOMENTUM;
    ptrdiff_t i;
    for (i = 0; i < n; i++)
        RMSPROP_NAME(catch_up)(&param[i], &rms[i], centered ? &mg[i] : (RMSPROP_REAL *)0,
                               momentum ? &mom[i] : (RMSPROP_REAL *)0, idle, centered,
                               momentum);
}

/* The same for a variant that is known when the program runs. */
RMSPROP_INLINE void RMSPROP_NAME(catch_up_variant_span)(RMSPROP_REAL *param,
                                                        RMSPROP_REAL *const *slots,
                                                        ptrdiff_t n,
                                                        RMSPROP_NAME(idle) idle,
                                                        int variant)
{
    RMSPROP_FOR_VARIANT(variant, RMSPROP_NAME(catch_up_span), param,
                        slots[RMSPROP_SLOT_RMS], slots[RMSPROP_SLOT_MG],
                        slots[RMSPROP_SLOT_MOM], n, idle)
}
