"""One step over any number of variables: one task list, run in one parallel region.

`_records` tests the rules about arrays. This module tests row numbers and, with
`check_finite`, whether gradients are finite. Nothing changes before everything is tested.
"""

cimport numpy as cnp
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.math cimport INFINITY, isfinite
from libc.stdint cimport INT64_MAX, int64_t

from rmsprop_fast.cpu cimport _tasks
from rmsprop_fast.cpu._gradients cimport (
    Gradient, clip_to, count_nonfinite, sum_squares,
)
from rmsprop_fast.cpu._layout cimport Layout
from rmsprop_fast.cpu._records cimport (
    HOST, Buffer, Entry, Records, describe, describe_indices,
)
from rmsprop_fast.cpu._sort cimport Indices, sort_bytes, sort_rows
from rmsprop_fast.cpu._spans cimport Coef, coef_make, dtype_row, prepare_powers
from rmsprop_fast.cpu._tasks cimport (
    OCCURRENCE_WORK, Task, add_catch_up, add_dense, add_rows, max_tasks, note_hot_rows,
    run_tasks, work_after,
)
from rmsprop_fast.cpu._variable cimport Variable
from rmsprop_fast.header cimport (
    rmsprop_idle_f32, rmsprop_idle_f64, rmsprop_norm_scale,
)

from rmsprop_fast import rules, threads

cnp.import_array()

cdef enum:
    NORM_BLOCKS = 8192     # block sums held at once: 64 KiB at any size of gradient
    HOLD_GIL_BELOW = 4096  # work: to release the GIL costs about as much
    # The cost per gradient of another thread, in elements: it reads the task, the record
    # and the address of the gradient, which this thread has just written.
    GRADIENT_COST = 64
    COUNT_BITS = 63        # of a count of steps

# What `update` returns in place of the count of iterations.
cdef enum:
    _REFUSED = -1
    _NOT_FINITE = -2

REFUSED, NOT_FINITE = _REFUSED, _NOT_FINITE


def set_serial_below(Py_ssize_t work):
    """Set the work below which one thread runs a step; return what it was."""
    before = _tasks.serial_below
    _tasks.serial_below = work
    return before


cdef int _team(Py_ssize_t work, Py_ssize_t n, num_threads) except -1:
    """Return how many threads that much work on n gradients deserves."""
    work = max(work - n * GRADIENT_COST, <Py_ssize_t> 0)
    return threads.count(num_threads) if work >= _tasks.serial_below else 1


cdef double _bound(value) except? -1:
    """Return a bound as a double; None is infinity."""
    return INFINITY if value is None else value


cdef class StepArguments:
    """Everything about a step but its arrays: the variant, the scalars, the bounds.

    Parameters
    ----------
    variant : int
        The sum of CENTERED (1), MOMENTUM (2) and EPS_IN_SQRT (4).
    rho, momentum, epsilon, weight_decay : float
        Checked by the caller.
    clipvalue, clipnorm, global_clipnorm : float or None
        None when off.
    check_finite : bool or str
        Whether every element of every gradient must be finite: False, True or "skip".
    num_threads : int or None
        As given to the optimizer.

    Attributes
    ----------
    learning_rate : float
        Of this step, schedule and decay included. If the rate is on a device: the
        number that divides it there.
    rate : DeviceScalar or None
        The learning rate, if it is on a device.
    factor : float
        Multiplies every gradient before it is clipped.
    overlaps_checked : bool
        The caller has found that no gradient shares memory with a variable or a slot.
    """

    def __init__(
        self, int variant, double rho=0, double momentum=0, double epsilon=0, *,
        clipvalue=None, clipnorm=None, global_clipnorm=None, double weight_decay=0,
        check_finite=False, num_threads=None,
    ):
        self.variant = variant
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.clipvalue = _bound(clipvalue)
        self.clipnorm = _bound(clipnorm)
        self.global_clipnorm = _bound(global_clipnorm)
        self.weight_decay = weight_decay
        self.check_finite = check_finite is not False
        self.skips = check_finite == "skip"
        self.num_threads = num_threads
        self.factor = 1

    def set_learning_rate(self, rate, double decay):
        """Set the learning rate without decay, and the decay."""
        self.decay = decay
        self.rate = None if isinstance(rate, float) else rate
        self.undecayed = 1 if self.rate is not None else rate

    def begin(self, cnp.ndarray iterations, double factor):
        """Set what changes from step to step."""
        cdef int64_t step = (<int64_t *> cnp.PyArray_DATA(iterations))[0]
        self.factor = factor
        self.overlaps_checked = False
        self.learning_rate = self.undecayed
        if self.decay != 0:
            if self.rate is None:
                self.learning_rate = self.undecayed / (1 + self.decay * step)
            else:  # it divides what is on the device
                self.learning_rate = 1 + self.decay * step

    cdef Coef coef(self) noexcept:
        """Return the scalars as the loops take them."""
        return coef_make(
            self.learning_rate, self.rho, self.momentum, self.epsilon,
            1 - self.learning_rate * self.weight_decay, self.clipvalue)

    cdef StepBounds bounds(self) noexcept:
        """Return what a step needs without the GIL."""
        return StepBounds(
            self.variant, self.factor, self.clipnorm, self.global_clipnorm,
            self.clipnorm < INFINITY or self.global_clipnorm < INFINITY,
            self.check_finite)


cdef void _set_scales(
    Gradient *grads, Py_ssize_t n, const StepBounds *bounds, double *blocks,
    int n_threads,
) noexcept nogil:
    """Set the number that multiplies each gradient, from the factor and the norms."""
    cdef double squares = 0
    cdef Py_ssize_t k
    if not bounds.has_norm:
        for k in range(n):
            grads[k].scale = bounds.factor
        return
    sum_squares(grads, n, blocks, NORM_BLOCKS, n_threads)
    for k in range(n):
        squares += grads[k].sum
    for k in range(n):
        grads[k].scale = rmsprop_norm_scale(
            grads[k].sum if bounds.clipnorm < INFINITY else squares,
            min(bounds.clipnorm, bounds.global_clipnorm), bounds.factor)


cdef bint _are_finite(
    Gradient *grads, Py_ssize_t n, bint are_summed, double *blocks, int n_threads,
) noexcept nogil:
    """Whether every element is finite; `are_summed`: the squares are known."""
    cdef Py_ssize_t k
    cdef double count = 0
    if are_summed:
        for k in range(n):
            if not isfinite(grads[k].sum):
                break
        else:
            return True
        # The squares of large finite float64 overflow too.
    count_nonfinite(grads, n, blocks, NORM_BLOCKS, n_threads)
    for k in range(n):
        count += grads[k].sum
    return count == 0


# --- The step -------------------------------------------------------------------------


cdef class Step:
    """Steps over the variables of one optimizer.

    Attributes
    ----------
    devices : DeviceStep or None
        Does the part of a step that is on devices.
    team : int
        The number of threads that ran the last step.
    """

    cdef readonly Records records
    cdef public object devices
    cdef Buffer tasks, occurrences, blocks
    cdef rmsprop_idle_f32[COUNT_BITS] idle_f32
    cdef rmsprop_idle_f64[COUNT_BITS] idle_f64
    cdef readonly int team

    def __cinit__(self):
        self.records = Records()
        self.tasks = Buffer()
        self.occurrences = Buffer()
        self.blocks = Buffer()
        self.team = 0

    cdef Py_ssize_t _work(self, Py_ssize_t n) noexcept:
        cdef Entry *entries = self.records.host.entries
        cdef Gradient *grads = self.records.host.grads
        cdef Py_ssize_t k, work = 0
        for k in range(n):
            work += grads[k].size
            if entries[k].is_sparse:
                work += entries[k].indices.n * OCCURRENCE_WORK
        return work

    cdef int _reserve(self, Py_ssize_t n, int n_threads) except -1:
        """Reserve what a step of n gradients needs; returns its number of passes."""
        cdef Entry *entries = self.records.host.entries
        cdef Py_ssize_t k, n_tasks = 0, n_bytes = 0, n_passes = 0
        for k in range(n):
            n_passes = max(n_passes, entries[k].repeat + 1)
            if entries[k].is_sparse:
                n_bytes += sort_bytes(&entries[k].indices, n_threads)
                n_tasks += max_tasks(entries[k].indices.n, n_threads)
            else:
                n_tasks += 1
        self.occurrences.reserve(n_bytes)
        self.tasks.reserve(n_tasks * sizeof(Task))
        self.blocks.reserve(NORM_BLOCKS * sizeof(double))
        return n_passes

    cdef bint _sort(self, Py_ssize_t n, int n_threads) noexcept nogil:
        """Sort the rows of every row-sparse gradient; False: one is out of range."""
        cdef Entry *entries = self.records.host.entries
        cdef char *memory = <char *> self.occurrences.data
        cdef Py_ssize_t k
        for k in range(n):
            if entries[k].is_sparse:
                entries[k].occurrences = sort_rows(
                    &entries[k].indices, memory, n_threads)
                if entries[k].occurrences == NULL:
                    return False
                memory += sort_bytes(&entries[k].indices, n_threads)
        return True

    cdef Py_ssize_t _list(
        self, Py_ssize_t n, Py_ssize_t repeat, int n_threads,
    ) noexcept nogil:
        """Fill the task list with the `repeat`-th update of each variable."""
        cdef Entry *entries = self.records.host.entries
        cdef Gradient *grads = self.records.host.grads
        cdef Task *tasks = <Task *> self.tasks.data
        cdef Py_ssize_t k, count = 0, work = 0
        cdef const Variable *var
        for k in range(n):
            if entries[k].repeat != repeat or grads[k].size == 0:
                continue
            var = &self.records.records[entries[k].record].var
            if not entries[k].is_sparse:
                count += add_dense(&tasks[count], work, var, &grads[k])
            else:
                count += add_rows(
                    &tasks[count], work, var, &grads[k], entries[k].occurrences,
                    entries[k].indices.n, n_threads)
            work = work_after(&tasks[count - 1])
        return count

    cdef int64_t _most_steps(self, Py_ssize_t n) noexcept:
        """Return the most steps that a variable of this step made; -1: none counts."""
        cdef Entry *entries = self.records.host.entries
        cdef const Variable *var
        cdef int64_t most = -1
        cdef Py_ssize_t k
        if not self.records.counts_rows:
            return most
        for k in range(n):
            var = &self.records.records[entries[k].record].var
            if var.counts.row != NULL:
                most = max(most, var.counts.steps[0])
        return most

    cdef void _prepare_powers(self, Coef *coef, int64_t steps) noexcept:
        """Prepare the factors for rows that missed up to so many steps."""
        prepare_powers(coef, self.idle_f32, self.idle_f64, steps)

    cdef void _count(self, Py_ssize_t n, Py_ssize_t repeat) noexcept nogil:
        """Count the steps of the variables whose rows are counted."""
        cdef Entry *entries = self.records.host.entries
        cdef const Variable *var
        cdef Py_ssize_t k
        for k in range(n):
            var = &self.records.records[entries[k].record].var
            if entries[k].repeat == repeat and var.counts.row != NULL:
                var.counts.steps[0] += 1
                if not entries[k].is_sparse:
                    var.counts.all_rows[0] = var.counts.steps[0]

    cdef int _run(
        self, Py_ssize_t n, int n_passes, const Coef *coef, const StepBounds *bounds,
        int n_threads,
    ) noexcept nogil:
        """Update everything and return 0; or change nothing and return the reason."""
        cdef Gradient *grads = self.records.host.grads
        cdef Task *tasks = <Task *> self.tasks.data
        cdef double *blocks = <double *> self.blocks.data
        cdef Py_ssize_t n_tasks
        cdef int repeat
        if not self._sort(n, n_threads):
            return _REFUSED
        _set_scales(grads, n, bounds, blocks, n_threads)
        if bounds.check_finite and not _are_finite(
                grads, n, bounds.has_norm, blocks, n_threads):
            return _NOT_FINITE
        for repeat in range(n_passes):
            # The same variable twice must not be in one parallel region.
            n_tasks = self._list(n, repeat, n_threads)
            self.team = run_tasks(tasks, n_tasks, coef, bounds.variant, n_threads)
            if coef.idle_f32 != NULL:
                note_hot_rows(tasks, n_tasks)
                self._count(n, repeat)
        return 0

    def follow(self, slots):
        """Take the variables of a state; release those that it no longer has."""
        self.records.follow(slots)

    def update(self, slots, list pairs, StepArguments arguments):
        """Update every variable once and return the new count of iterations.

        Returns REFUSED, with nothing changed, when a rule is broken or a variable is
        new; the caller asks `step_rules` which rule. Returns NOT_FINITE, with nothing
        changed, when an element of a gradient is not finite and this is checked.

        Parameters
        ----------
        slots : Slots
            The state; bound variables that are new in it are noted first.
        pairs : list of (gradient, variable) tuples
            No other thread has this list.
        arguments : StepArguments
            Everything else.
        """
        self.records.follow(slots)
        if not self.records.collect(
                pairs, arguments.variant, arguments.overlaps_checked):
            return REFUSED
        if not 0 <= (<int64_t *> cnp.PyArray_DATA(slots.iterations))[0] < INT64_MAX:
            rules.no_further_step(slots.iterations.item())
        if self.records.device.n > 0 or arguments.rate is not None:
            return self.devices.update(slots, arguments)
        return self.update_host(slots, arguments)

    def update_host(self, slots, StepArguments arguments):
        """Update the variables on the host with the gradients collected last."""
        cdef Coef coef = arguments.coef()
        cdef StepBounds bounds = arguments.bounds()
        cdef Py_ssize_t n = self.records.host.n
        cdef int64_t *count = <int64_t *> cnp.PyArray_DATA(slots.iterations)
        cdef Py_ssize_t work
        cdef int64_t most_steps
        cdef int n_threads, n_passes, refusal
        work = self._work(n)
        n_threads = _team(work, n, arguments.num_threads)
        n_passes = self._reserve(n, n_threads)
        most_steps = self._most_steps(n)
        if most_steps >= 0:
            self._prepare_powers(&coef, most_steps + n_passes)
        if n_threads > 1 or work >= HOLD_GIL_BELOW:
            with nogil:
                refusal = self._run(n, n_passes, &coef, &bounds, n_threads)
        else:
            refusal = self._run(n, n_passes, &coef, &bounds, n_threads)
        if refusal != 0:
            return refusal
        count[0] += 1
        return count[0]

    def catch_up(self, slots, list indices, rows, StepArguments arguments):
        """Apply the steps that rows have missed.

        Parameters
        ----------
        slots, arguments
            As for `update`; of the arguments those of a step with a gradient of zero.
        indices : list of int
            Which variables; one alone when `rows` is given.
        rows : ndarray of integers, 1-D, native byte order, or None
            Which rows; all if None.

        Returns
        -------
        bool
            Whether all of `rows` were in range; if not, nothing is changed.
        """
        self.records.follow(slots)
        if self.devices is not None and not self.devices.catch_up(
                slots, indices, rows, arguments):
            return True  # the rows are on a device, which checks their range
        return self._catch_up_host(indices, rows, arguments)

    cdef bint _catch_up_host(
        self, list indices, rows, StepArguments arguments,
    ) except -1:
        cdef Coef coef = arguments.coef()
        cdef Py_ssize_t n_tasks = 0, work = 0, index, k
        cdef Task *tasks = <Task *> self.tasks.reserve(len(indices) * sizeof(Task))
        cdef const void *occurrences = NULL
        cdef Py_ssize_t n = 0
        cdef const Variable *var
        cdef int64_t most_steps = 0
        cdef int n_threads
        if rows is not None:
            n = cnp.PyArray_DIM(rows, 0)
            var = &self.records.records[indices[0]].var
            n_threads = _team(
                n * (var.width + OCCURRENCE_WORK), 1, arguments.num_threads)
            occurrences = self._sorted(rows, var.n_rows, n_threads)
            if occurrences == NULL:
                return False
        for index in indices:
            if self.records.records[index].device != HOST:
                continue
            var = &self.records.records[index].var
            if var.counts.row == NULL or var.counts.all_rows[0] == var.counts.steps[0]:
                continue
            most_steps = max(most_steps, var.counts.steps[0])
            n_tasks += add_catch_up(&tasks[n_tasks], work, var, occurrences, n)
            work = work_after(&tasks[n_tasks - 1])
        self._prepare_powers(&coef, most_steps)
        n_threads = _team(work, n_tasks, arguments.num_threads)
        with nogil:
            self.team = run_tasks(tasks, n_tasks, &coef, arguments.variant, n_threads)
        if rows is None:
            for k in range(n_tasks):
                tasks[k].var.counts.all_rows[0] = tasks[k].var.counts.steps[0]
        return True

    cdef const void *_sorted(
        self, cnp.ndarray rows, Py_ssize_t n_rows, int n_threads,
    ) except? NULL:
        """Return occurrences in order, or NULL where one is out of range."""
        cdef Indices indices = describe_indices(rows, n_rows)
        cdef void *memory = self.occurrences.reserve(sort_bytes(&indices, n_threads))
        cdef const void *occurrences
        with nogil:
            occurrences = sort_rows(&indices, memory, n_threads)
        return occurrences


def clipped(list grads, StepArguments arguments):
    """Return new C-contiguous arrays: the gradients as an update would see them.

    Parameters
    ----------
    grads : list of ndarray, float32 or float64
        Only read; any layout. For a row-sparse gradient: its values.
    arguments : StepArguments
        The bounds and the number of threads are used.

    Returns
    -------
    list of ndarray
    """
    cdef Py_ssize_t n = PyList_GET_SIZE(grads), k, work = 0
    cdef Buffer described = Buffer(), layouts = Buffer(), blocks = Buffer()
    cdef Gradient *g = <Gradient *> described.reserve(n * sizeof(Gradient))
    cdef Layout *layout = <Layout *> layouts.reserve(n * sizeof(Layout))
    cdef double *sums = <double *> blocks.reserve(NORM_BLOCKS * sizeof(double))
    cdef Coef coef = coef_make(0, 0, 0, 0, 1, arguments.clipvalue)
    cdef StepBounds bounds = arguments.bounds()
    cdef int n_threads
    cdef list out = []
    for k in range(n):
        describe(<object> PyList_GET_ITEM(grads, k), &g[k], &layout[k])
        work += g[k].size
        out.append(cnp.PyArray_EMPTY(
            layout[k].ndim, <cnp.npy_intp *> layout[k].dims,
            dtype_row(g[k].dtype).param_typenum, False))
    n_threads = _team(work, n, arguments.num_threads)
    _set_scales(g, n, &bounds, sums, n_threads)
    for k in range(n):
        clip_to(<char *> cnp.PyArray_DATA(<object> PyList_GET_ITEM(out, k)), &g[k], &coef)
    return out


def assign(list pairs):
    """Copy arrays into others, cast within their kind; nothing interrupts in between.

    Parameters
    ----------
    pairs : list of (target, source) tuples of ndarray
        Of the same shapes, and with no memory in common.
    """
    cdef cnp.ndarray target, source
    for target, source in pairs:
        cnp.PyArray_CopyInto(target, source)
