/* Dense: elements of many variables, updated; or of gradients, clipped. */

/* W gradient values on their way to an array of clipped ones. */
template <typename T, int W> struct Clipped {
    Pack<T, W> grad;

    INLINE void read(const Run<T> &r, i64 i) { grad = load<T, W>(r.grad + i); }

    INLINE void compute(const typename Formula<T>::Coef &c)
    {
#pragma unroll
        for (int j = 0; j < W; ++j)
            grad.v[j] = Formula<T>::grad(grad.v[j], c);
    }

    INLINE void write(const Run<T> &r, i64 i) const { store<T, W>(r.param + i, grad); }
};

/* Elements begin to end of a run by the whole block, two packs in flight per thread. */
template <typename T, int W, typename E>
INLINE void run_packs(const Run<T> &r, i64 begin, i64 end,
                      const typename Formula<T>::Coef &c)
{
    const i64 stride = (i64)RMSPROP_THREADS * W;
    i64 i = begin + (i64)threadIdx.x * W;
    for (; i + stride < end; i += 2 * stride) {
        E a, b;
        a.read(r, i);
        b.read(r, i + stride);
        a.compute(c);
        b.compute(c);
        a.write(r, i);
        b.write(r, i + stride);
    }
    if (i < end) {
        E a;
        a.read(r, i);
        a.compute(c);
        a.write(r, i);
    }
}

/* E1 and EW handle one element and W of them. */
template <typename T, typename E1, typename EW> INLINE void run_dense(const rmsprop_table &t)
{
    enum { W = Widest<T>::W };
    const typename Formula<T>::Coef base = coefficients<T>(t.s);
    for (u32 chunk = blockIdx.x; chunk < t.n_chunks; chunk += gridDim.x) {
        const rmsprop_var &var = t.var[owner<&rmsprop_var::first>(t.var, t.n, chunk)];
        const typename Formula<T>::Coef c = coefficients_of<T>(base, t.s, var);
        const Run<T> r = run_of<T>(var, 0);
        const i64 begin = (i64)(chunk - var.first) * RMSPROP_CHUNK;
        const i64 end = begin + smaller(var.size - begin, RMSPROP_CHUNK);
        i64 whole = begin;
        if (is_aligned(addresses_of(var) | var.grad)) {
            whole = end - end % W;
            run_packs<T, W, EW>(r, begin, whole, c);
        }
        run_packs<T, 1, E1>(r, whole, end, c);
    }
}
