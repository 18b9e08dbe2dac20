/* The formula, in RMSPROP_REAL. rmsprop.h includes this once per type; there is
 * deliberately no include guard, and no other copy of these lines.
 *
 * The order of operations is part of the contract: every instruction set, thread
 * count and device gives the same bits because all of them run exactly this.
 */

/* The scalars of one step. Comparisons decide clipping, so `clip` is +inf when off. */
typedef struct {
    RMSPROP_REAL lr;            /* learning rate, schedule and decay included */
    RMSPROP_REAL rho;           /* weight of the past in rms and mg, in [0, 1] */
    RMSPROP_REAL one_minus_rho; /* weight of the present; the two add up to 1 */
    RMSPROP_REAL momentum;      /* weight of the past in mom, in [0, 1] */
    RMSPROP_REAL epsilon;       /* >= 0; unit of grad^2 inside the root, of grad outside */
    RMSPROP_REAL keep;          /* 1 - lr*weight_decay; exactly 1 when off */
    RMSPROP_REAL grad_scale;    /* multiplies every raw gradient value, before clip */
    RMSPROP_REAL clip;          /* largest |scaled gradient|, or +inf */
} RMSPROP_NAME(coef);

/* Pointers: during the call, no other pointer may be used for these elements. */
typedef RMSPROP_REAL *RMSPROP_RESTRICT RMSPROP_NAME(out);
typedef const RMSPROP_REAL *RMSPROP_RESTRICT RMSPROP_NAME(in);

/* Round the step's scalars once. one_minus_rho is taken after rounding rho, as
 * in TensorFlow: in float at rho = .999 the other order is 20 times less
 * accurate, and the weights would no longer add up to one. */
RMSPROP_INLINE RMSPROP_NAME(coef)
RMSPROP_NAME(coef_make)(double lr, double rho, double momentum, double epsilon,
                        double keep, double grad_scale, double clip)
{
    RMSPROP_NAME(coef) c;
    c.lr = (RMSPROP_REAL)lr;
    c.rho = (RMSPROP_REAL)rho;
    c.one_minus_rho = (RMSPROP_REAL)1 - c.rho;
    c.momentum = (RMSPROP_REAL)momentum;
    c.epsilon = (RMSPROP_REAL)epsilon;
    c.keep = (RMSPROP_REAL)keep;
    c.grad_scale = (RMSPROP_REAL)grad_scale;
    c.clip = (RMSPROP_REAL)clip;
    return c;
}

/* A raw gradient value as the update sees it. Once per value: duplicate rows are
 * summed afterwards. Two comparisons, not fmin/fmax: a NaN stays a NaN. */
RMSPROP_INLINE RMSPROP_REAL RMSPROP_NAME(grad)(RMSPROP_REAL raw, RMSPROP_NAME(coef) c)
{
    const RMSPROP_REAL g = c.grad_scale * raw;
    return g < -c.clip ? -c.clip : g > c.clip ? c.clip : g;
}

/* Subnormal state makes a loop 2 to 3 times slower, and devices disagree on it.
 * Spelt with fabs: GCC 12 vectorises no other spelling. */
RMSPROP_INLINE RMSPROP_REAL RMSPROP_NAME(flush)(RMSPROP_REAL x)
{
    return RMSPROP_FABS(x) < RMSPROP_SMALLEST_NORMAL ? (RMSPROP_REAL)0 : x;
}

/* Update one element in place from its scaled and clipped gradient.
 *
 * `variant` must be a literal at the call site, so that a loop over this function is
 * branch-free. mg is read and written only if centered, mom only with momentum; either
 * may be NULL otherwise. */
RMSPROP_INLINE void RMSPROP_NAME(element)(RMSPROP_REAL *param, RMSPROP_REAL grad,
                                          RMSPROP_REAL *rms, RMSPROP_REAL *mg,
                                          RMSPROP_REAL *mom, RMSPROP_NAME(coef) c,
                                          const int variant)
{
    RMSPROP_REAL d, denominator, inc;

    /* Tieleman & Hinton 2012, COURSERA lecture 6e: the running mean of grad^2. */
    *rms = RMSPROP_NAME(flush)(c.rho * *rms + c.one_minus_rho * (grad * grad));
    d = *rms;
    if (variant & RMSPROP_CENTERED) {
        /* Graves 2013, arXiv:1308.0850, eq. 38-40: the variance, mean square minus
         * squared mean. Rounding can take it below zero, whose root is NaN. */
        *mg = RMSPROP_NAME(flush)(c.rho * *mg + c.one_minus_rho * grad);
        d = *rms - *mg * *mg;
        d = d < (RMSPROP_REAL)0 ? (RMSPROP_REAL)0 : d;
    }
    /* Inside the root: Graves eq. 40, Keras 3, optax. Outside: torch. */
    denominator = variant & RMSPROP_EPS_IN_SQRT ? RMSPROP_SQRT(d + c.epsilon)
                                                : RMSPROP_SQRT(d) + c.epsilon;
    inc = (c.lr * grad) / denominator;
    if (variant & RMSPROP_MOMENTUM) {
        /* Momentum as in Keras: the slot contains the learning rate. */
        *mom = RMSPROP_NAME(flush)(c.momentum * *mom + inc);
        inc = *mom;
    }
    *param = c.keep * *param - inc;
}

/* The same for literal flags. */
RMSPROP_INLINE void RMSPROP_NAME(update)(RMSPROP_REAL *param, RMSPROP_REAL grad,
                                         RMSPROP_REAL *rms, RMSPROP_REAL *mg,
                                         RMSPROP_REAL *mom, RMSPROP_NAME(coef) c,
                                         int centered, int momentum, int eps_in_sqrt)
{
    RMSPROP_NAME(element)
    (param, grad, rms, mg, mom, c, RMSPROP_VARIANT(centered, momentum, eps_in_sqrt));
}
