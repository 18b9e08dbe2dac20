/* What all kernels share: addresses, the header's functions by type, packs of elements,
 * and which variable an item belongs to. */
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define INLINE __device__ __forceinline__
#define FULL_WARP 0xffffffffu
#define WARPS (RMSPROP_THREADS / 32)

/* Addresses from a table are generic to the compiler until it is told better. */
template <typename T> INLINE T *at(rmsprop_address address)
{
    T *p = (T *)address;
#ifdef __CUDA_ARCH__
    __builtin_assume(__isGlobal(p));
#endif
    return p;
}

/* The header's functions by type. */
template <typename T> struct Formula;

#define FORMULA(T, suffix)                                                               \
    template <> struct Formula<T> {                                                      \
        typedef rmsprop_coef_##suffix Coef;                                              \
        typedef rmsprop_idle_##suffix Missed;                                            \
        static INLINE Coef coef(const rmsprop_scalars &s, double lr)                     \
        {                                                                                \
            return rmsprop_coef_make_##suffix(lr, s.rho, s.momentum, s.epsilon,          \
                                              1.0 - lr * s.weight_decay, s.factor,       \
                                              s.clip);                                   \
        }                                                                                \
        static INLINE T grad(T raw, const Coef &c) { return rmsprop_grad_##suffix(raw, c); } \
        template <int V>                                                                 \
        static INLINE void update(T &param, T grad, T *slots, const Coef &c)             \
        {                                                                                \
            rmsprop_element_##suffix(&param, grad, slots + RMSPROP_SLOT_RMS,             \
                                     slots + RMSPROP_SLOT_MG, slots + RMSPROP_SLOT_MOM,  \
                                     c, V);                                              \
        }                                                                                \
        static INLINE Missed missed(const rmsprop_rows_table &t, i64 steps)              \
        {                                                                                \
            return rmsprop_idle_steps_##suffix(t.missed.suffix, (u64)steps);             \
        }                                                                                \
        template <int V>                                                                 \
        static INLINE void catch_up(T &param, T *slots, const Missed &missed)            \
        {                                                                                \
            rmsprop_catch_up_##suffix(&param, slots + RMSPROP_SLOT_RMS,                  \
                                      slots + RMSPROP_SLOT_MG, slots + RMSPROP_SLOT_MOM, \
                                      missed, (V & RMSPROP_CENTERED) != 0,               \
                                      (V & RMSPROP_MOMENTUM) != 0);                      \
        }                                                                                \
    };
FORMULA(float, f32)
FORMULA(double, f64)

INLINE bool is_stopped(const rmsprop_scalars &s)
{
    return *at<const int>(s.stop) != 0 || (s.skip && *at<const int>(s.skip) != 0);
}

template <typename T> INLINE typename Formula<T>::Coef coefficients(const rmsprop_scalars &s)
{
    double lr = s.lr;
    if (s.lr_address) {
        lr = s.lr_is_f32 ? (double)*at<const float>(s.lr_address)
                         : *at<const double>(s.lr_address);
        lr /= s.lr;
    }
    return Formula<T>::coef(s, lr);
}

/* The same coefficients for one variable: the norm may scale its gradient, and weight
 * decay may not apply to it. */
template <typename T>
INLINE typename Formula<T>::Coef coefficients_of(typename Formula<T>::Coef c,
                                                 const rmsprop_scalars &s,
                                                 const rmsprop_var &var)
{
    if (s.scales)
        c.grad_scale = (T)at<const double>(s.scales)[var.scale];
    if (!var.decays)
        c.keep = 1;
    return c;
}

/* The last of n table entries that begins at `item` or before: what it belongs to. */
template <auto begin, typename Entry, typename I>
INLINE int owner(const Entry *entries, int n, I item)
{
    int low = 0, high = n - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if ((I)(entries[middle].*begin) <= item)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* W elements that move as one access. */
template <typename T, int W> struct alignas(sizeof(T) * W) Pack {
    T v[W];
};

template <typename T, int W> INLINE Pack<T, W> load(const T *p)
{
    return *(const Pack<T, W> *)p;
}

template <typename T, int W> INLINE void store(T *p, const Pack<T, W> &pack)
{
    *(Pack<T, W> *)p = pack;
}

/* Elements of T in a kernel's widest access. */
template <typename T> struct Widest {
    enum { W = 16 / sizeof(T) };
};

/* The addresses of a variable and its slots in one number: see is_aligned. */
INLINE rmsprop_address addresses_of(const rmsprop_var &var)
{
    rmsprop_address all = var.param;
#pragma unroll
    for (int s = 0; s < RMSPROP_N_SLOTS; ++s)
        all |= var.slots[s];
    return all;
}

INLINE bool is_aligned(rmsprop_address addresses)
{
    return addresses % 16 == 0;
}

INLINE i64 smaller(i64 a, i64 b)
{
    return a < b ? a : b;
}

/* One variable's arrays from some element on. */
template <typename T> struct Run {
    T *param;
    const T *grad;
    T *slots[RMSPROP_N_SLOTS];
};

template <typename T> INLINE Run<T> run_of(const rmsprop_var &var, i64 offset)
{
    Run<T> r;
    r.param = at<T>(var.param) + offset;
    r.grad = at<const T>(var.grad);
#pragma unroll
    for (int s = 0; s < RMSPROP_N_SLOTS; ++s)
        r.slots[s] = at<T>(var.slots[s]) + offset;
    return r;
}

/* W elements on their way through the formula. */
template <typename T, int V, int W> struct Elements {
    typedef typename Formula<T>::Coef Coef;
    Pack<T, W> param, grad, slots[RMSPROP_N_SLOTS];

    INLINE void read_state(const Run<T> &r, i64 i, bool with_param = true)
    {
        if (with_param)
            param = load<T, W>(r.param + i);
#pragma unroll
        for (int s = 0; s < RMSPROP_N_SLOTS; ++s)
            if (rmsprop_needs_slot(V, s))
                slots[s] = load<T, W>(r.slots[s] + i);
    }

    INLINE void read(const Run<T> &r, i64 i)
    {
        grad = load<T, W>(r.grad + i);
        read_state(r, i);
    }

    INLINE void write(const Run<T> &r, i64 i, bool with_param = true) const
    {
        if (with_param)
            store<T, W>(r.param + i, param);
#pragma unroll
        for (int s = 0; s < RMSPROP_N_SLOTS; ++s)
            if (rmsprop_needs_slot(V, s))
                store<T, W>(r.slots[s] + i, slots[s]);
    }

    /* `grad` is scaled and clipped. */
    INLINE void update(const Coef &c)
    {
#pragma unroll
        for (int j = 0; j < W; ++j) {
            T own[RMSPROP_N_SLOTS];
            split(own, j);
            Formula<T>::template update<V>(param.v[j], grad.v[j], own, c);
            join(own, j);
        }
    }

    INLINE void compute(const Coef &c)
    {
#pragma unroll
        for (int j = 0; j < W; ++j)
            grad.v[j] = Formula<T>::grad(grad.v[j], c);
        update(c);
    }

    INLINE void catch_up(const typename Formula<T>::Missed &missed)
    {
#pragma unroll
        for (int j = 0; j < W; ++j) {
            T own[RMSPROP_N_SLOTS];
            split(own, j);
            Formula<T>::template catch_up<V>(param.v[j], own, missed);
            join(own, j);
        }
    }

private:
    /* The slots of one element, side by side. */
    INLINE void split(T *own, int j) const
    {
#pragma unroll
        for (int s = 0; s < RMSPROP_N_SLOTS; ++s)
            if (rmsprop_needs_slot(V, s))
                own[s] = slots[s].v[j];
    }

    INLINE void join(const T *own, int j)
    {
#pragma unroll
        for (int s = 0; s < RMSPROP_N_SLOTS; ++s)
            if (rmsprop_needs_slot(V, s))
                slots[s].v[j] = own[s];
    }
};
