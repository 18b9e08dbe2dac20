"""A step on devices: what there is to launch, and the kernels' parameters.

`cpu._records` knows the bound variables and tests the rules. This module puts a step's
entries into groups that launch together, and fills a table for each launch.
"""

cimport numpy as cnp
from libc.math cimport INFINITY
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from rmsprop_fast.cpu._gradients cimport Gradient
from rmsprop_fast.cpu._records cimport HOST, Buffer, Entries, Entry, Record, Records
from rmsprop_fast.cpu._sort cimport Indices
from rmsprop_fast.cpu._spans cimport Coef, F32, F64, N_DTYPES, param_size
from rmsprop_fast.cpu._step cimport StepArguments
from rmsprop_fast.cpu._variable cimport Variable
from rmsprop_fast.header cimport (
    RMSPROP_CENTERED, RMSPROP_MOMENTUM, RMSPROP_N_SLOTS, rmsprop_idle_powers_f32,
    rmsprop_idle_powers_f64, rmsprop_needs_slot,
)

import numpy as np

cnp.import_array()

THREADS = RMSPROP_THREADS
DIGITS = RMSPROP_DIGITS
ZERO_GRADIENT = RMSPROP_CENTERED | RMSPROP_MOMENTUM  # the flags it depends on
NONFINITE_FOUND = RMSPROP_NONFINITE_FOUND
DTYPES = range(N_DTYPES)

cdef enum:
    ALIGNMENT = 16  # bytes of a kernel's widest access
    WARP = 32


cdef class Table:
    """One kernel's parameter; CuPy passes an array of size 1 by value."""

    cdef readonly cnp.ndarray array
    cdef void *data

    def __init__(self, Py_ssize_t size):
        self.array = np.zeros(1, np.dtype((np.void, size)))
        self.data = cnp.PyArray_DATA(self.array)


cdef class Fault:
    """What a device reports of steps that did nothing, in memory that both can reach."""

    cdef readonly object memory
    cdef rmsprop_fault *data

    def __init__(self, memory, uint64_t address):
        self.memory = memory
        self.data = <rmsprop_fault *> address
        memset(<void *> address, 0, sizeof(rmsprop_fault))

    @property
    def address(self):
        """Where a kernel reports."""
        return <uint64_t> self.data

    @property
    def found(self):
        """What was found since the last `forget`: NONFINITE_FOUND, a row, or 0."""
        return self.data.found

    @property
    def step(self):
        """The number of the step that found it, -1 in a replay of a graph."""
        return self.data.step

    @property
    def row(self):
        """(pair, row, position, n_rows) of a row out of range."""
        cdef object row = self.data.row
        if not self.data.is_unsigned and row >= 1 << 63:
            row -= 1 << 64
        return self.data.pair, row, self.data.position, self.data.n_rows

    @property
    def nonfinite(self):
        """[(pair, variable, count, size)] of gradients, and how many more there are."""
        cdef int k, n = min(self.data.n_bad, <int> RMSPROP_MAX_REPORTED)
        return sorted([
            (self.data.bad[k].pair, self.data.bad[k].variable, self.data.bad[k].count,
             self.data.bad[k].size) for k in range(n)]), self.data.n_bad - n

    @property
    def skipped(self):
        """How many steps were left out: of calls, of replays of graphs."""
        return self.data.skipped[0], self.data.skipped[1]

    def forget(self):
        """Be ready for the next."""
        self.data.found = 0


FAULT_SIZE, NONFINITE_SIZE = sizeof(rmsprop_fault), sizeof(rmsprop_nonfinite)


# What launches together.
ctypedef struct Group:
    int device
    Py_ssize_t repeat
    bint is_sparse
    int dtype


# Where an entry is among the others.
ctypedef struct Place:
    Group group
    unsigned scale              # among the gradients of its device


cdef inline bint _is_same(const Group *a, const Group *b) noexcept:
    return (a.device == b.device and a.repeat == b.repeat
            and a.is_sparse == b.is_sparse and a.dtype == b.dtype)


cdef inline Group _group(tuple group) except *:
    return Group(group[0], group[1], group[2], group[3])


cdef int _kind(const Indices *indices) noexcept:
    """Return the kernels' number of an integer dtype."""
    cdef Py_ssize_t size = indices.stride  # contiguous
    cdef int kind = cnp.PyTypeNum_ISUNSIGNED(indices.typenum)
    while size > 1:
        size //= 2
        kind += 2
    return kind


cdef unsigned char _lanes(long long width, int dtype) noexcept:
    """Return how many threads share a row: those of its 16-byte packs, at most a warp."""
    cdef long long packs = _blocks(width * param_size(dtype), ALIGNMENT)
    cdef unsigned char lanes = 1
    while lanes < WARP and lanes < packs:
        lanes *= 2
    return lanes


cdef inline long long _blocks(long long n, long long each) noexcept:
    return (n + each - 1) // each


cdef inline uint64_t _address(const void *address) noexcept:
    return <uint64_t> <size_t> address


cdef class Plan:
    """One step over the variables on devices, or another kind of work on them.

    Parameters
    ----------
    records : Records
        The bound variables, and the entries of the collected step.
    array_type : type
        cupy.ndarray.

    Attributes
    ----------
    groups : list of (device, repeat, is_sparse, dtype)
        What launches together, in the order of the entries. `repeat` counts the updates
        of one variable within the step.
    """

    cdef Records records
    cdef Entries entries        # of the step, or own ones
    cdef Buffer places
    cdef rmsprop_scalars scalars
    cdef rmsprop_idle_f32[RMSPROP_COUNT_BITS] missed_f32  # the factors of 2^j missed steps
    cdef rmsprop_idle_f64[RMSPROP_COUNT_BITS] missed_f64
    cdef readonly list groups

    def __init__(self, Records records, type array_type):
        self.records = records
        self.entries = Entries()
        self.places = Buffer()
        self.groups = []
        records.device_array = array_type

    @property
    def has_host(self):
        """Whether the collected step has gradients on the host."""
        return self.records.host.n > 0

    cdef inline const Variable *_var(self, Py_ssize_t k) noexcept:
        return &self.records.records[self.entries.entries[k].record].var

    cdef inline Place *_places(self) noexcept:
        return <Place *> self.places.data

    # --- What there is to do ----------------------------------------------------------

    def use_collected(self):
        """Plan the step that was collected last."""
        self.entries = self.records.device
        self._arrange()

    def use_gradients(self, list grads):
        """Plan work on arrays as they are, without variables."""
        cdef Gradient *grad
        cdef Py_ssize_t k
        self.entries = Entries()
        self.entries.reserve(len(grads))
        for k in range(len(grads)):
            memset(&self.entries.entries[k], 0, sizeof(Entry))
            self.entries.entries[k].record = -1
            self.entries.entries[k].device = grads[k].data.device_id
            self.entries.entries[k].pair = k
            grad = &self.entries.grads[k]
            grad.dtype = F32 if grads[k].dtype.num == cnp.NPY_FLOAT else F64
            grad.data = <const char *> <size_t> grads[k].data.ptr
            grad.size = grads[k].size
        self.entries.n = len(grads)
        self._arrange()

    def use_missed_steps(self, list indices, int variant, rows=None):
        """Plan that the variables of `indices` that are on devices catch up.

        `rows`, an array of integers on a device, are those of the one variable.
        """
        cdef Py_ssize_t index, n = 0
        cdef Record *record
        cdef Entry *entry
        self.entries = Entries()
        self.entries.reserve(len(indices))
        for index in indices:
            record = &self.records.records[index]
            # With another variant before, all rows caught up when it was set.
            if record.device == HOST or not _has_slots(&record.var, variant):
                continue
            if rows is None and record.var.counts.row == NULL:
                continue
            entry = &self.entries.entries[n]
            memset(entry, 0, sizeof(Entry))
            memset(&self.entries.grads[n], 0, sizeof(Gradient))
            entry.record = index
            entry.device = record.device
            entry.pair = -1
            self.entries.grads[n].dtype = record.var.dtype
            if rows is not None:
                entry.is_sparse = True
                entry.indices = Indices(
                    <const char *> <size_t> rows.data.ptr, rows.dtype.itemsize,
                    rows.dtype.num, rows.size, record.var.n_rows)
            n += 1
        self.entries.n = n
        self._arrange()

    cdef int _arrange(self) except -1:
        """Find the groups, and count each device's gradients in their order."""
        cdef dict groups = {}, counts = {}
        cdef Py_ssize_t k
        cdef Entry *entry
        cdef Place *place = <Place *> self.places.reserve(self.entries.n * sizeof(Place))
        for k in range(self.entries.n):
            entry = &self.entries.entries[k]
            place[k].group = Group(
                entry.device, entry.repeat, entry.is_sparse, self.entries.grads[k].dtype)
            if k > 0 and _is_same(&place[k].group, &place[k - 1].group):
                place[k].scale = place[k - 1].scale + 1  # quicker
                continue
            if k > 0:
                counts[place[k - 1].group.device] = place[k - 1].scale + 1
            place[k].scale = counts.get(entry.device, 0)
            groups[(entry.device, entry.repeat, bool(entry.is_sparse),
                    place[k].group.dtype)] = None
        self.groups = list(groups)
        return 0

    def count(self, int device):
        """Return a device's number of gradients and of blocks whose squares are summed."""
        cdef Py_ssize_t k, n = 0, n_blocks = 0
        for k in range(self.entries.n):
            if self.entries.entries[k].device == device:
                n += 1
                n_blocks += _blocks(self.entries.grads[k].size, RMSPROP_NORM_BLOCK)
        return n, n_blocks

    # --- Scalars ----------------------------------------------------------------------

    def set_scalars(
        self, StepArguments arguments, uint64_t lr_address=0, bint lr_is_f32=False,
    ):
        """Set the numbers; with `lr_address` the rate divides what is there."""
        cdef Coef coef = arguments.coef()
        cdef uint64_t most = (<uint64_t> 1 << RMSPROP_COUNT_BITS) - 1
        self.scalars.lr = arguments.learning_rate
        self.scalars.rho = arguments.rho
        self.scalars.momentum = arguments.momentum
        self.scalars.epsilon = arguments.epsilon
        self.scalars.weight_decay = arguments.weight_decay
        self.scalars.factor = arguments.factor
        self.scalars.clip = arguments.clipvalue
        self.scalars.lr_address = lr_address
        self.scalars.lr_is_f32 = lr_is_f32
        if self.records.counts_rows:
            rmsprop_idle_powers_f32(self.missed_f32, coef.f32, most)
            rmsprop_idle_powers_f64(self.missed_f64, coef.f64, most)

    def set_addresses(self, uint64_t stop, uint64_t scales=0, uint64_t skip=0):
        """Set where the flags and the norms are on the device to be filled for."""
        self.scalars.stop = stop
        self.scalars.scales = scales
        self.scalars.skip = skip

    # --- Tables -----------------------------------------------------------------------

    cdef void _fill(self, rmsprop_var *t, Py_ssize_t k, unsigned first) noexcept:
        """Describe entry k: its variable, if it has one, and its gradient."""
        cdef const Variable *var
        cdef int slot
        t.grad = _address(self.entries.grads[k].data)
        t.size = self.entries.grads[k].size
        t.first = first
        t.scale = self._places()[k].scale
        t.pair = <int> self.entries.entries[k].pair
        t.variable = <int> self.entries.entries[k].record
        if t.variable < 0:
            return
        var = self._var(k)
        t.param = _address(var.param)
        for slot in range(RMSPROP_N_SLOTS):
            t.slots[slot] = _address(var.slots[slot])
        t.decays = var.decays

    def fill(self, tuple group, Py_ssize_t start, list outs=None):
        """Return a table of a group's gradients from entry `start` on.

        And the entry to go on from, -1 after the last, and the number of chunks. With
        `outs`, an array for each entry, clipped gradients are to be written there.
        """
        cdef Table table = Table(sizeof(rmsprop_table))
        cdef rmsprop_table *t = <rmsprop_table *> table.data
        cdef Group wanted = _group(group)
        cdef Py_ssize_t k
        t.s = self.scalars
        for k in range(start, self.entries.n):
            if not _is_same(&self._places()[k].group, &wanted):
                continue
            if t.n == RMSPROP_TABLE:
                break
            self._fill(&t.var[t.n], k, t.n_chunks)
            if outs is not None:
                t.var[t.n].param = outs[k].data.ptr
            t.n_chunks += <unsigned> _blocks(t.var[t.n].size, RMSPROP_CHUNK)
            t.n += 1
        else:
            k = -1
        return table.array, k, t.n_chunks

    def fill_norms(
        self, int device, int dtype, Py_ssize_t start, uint64_t sums, uint64_t squares,
        uint64_t is_any, uint64_t nonfinite,
    ):
        """Return a table of a device's gradients of a dtype from entry `start` on.

        And the entry to go on from, -1 after the last, the number of gradients and of
        blocks.
        """
        cdef Table table = Table(sizeof(rmsprop_table))
        cdef rmsprop_table *t = <rmsprop_table *> table.data
        cdef Py_ssize_t k
        for k in range(start, self.entries.n):
            if (self.entries.entries[k].device != device
                    or self.entries.grads[k].dtype != dtype):
                continue
            if t.n == RMSPROP_TABLE:
                break
            self._fill(&t.var[t.n], k, t.n_chunks)
            t.n_chunks += <unsigned> _blocks(t.var[t.n].size, RMSPROP_NORM_BLOCK)
            t.n += 1
        else:
            k = -1
        t.sums = sums
        t.squares = squares
        t.is_any = is_any
        t.nonfinite = nonfinite
        return table.array, k, t.n, t.n_chunks

    def fill_rows(self, tuple group, Py_ssize_t start, int made):
        """Return a table of a group's rows from entry `start` on.

        Those of a row-sparse gradient, or else all rows of the variables, which catch
        up. `made` is how many steps the variables make now. The numbers that go with the
        table are its attributes; `next` is the entry to go on from, -1 after the last.
        """
        cdef RowsTable table = RowsTable(sizeof(rmsprop_rows_table))
        cdef rmsprop_rows_table *t = <rmsprop_rows_table *> table.data
        cdef Group wanted = _group(group)
        cdef Py_ssize_t k
        t.made = made
        t.is_all = not wanted.is_sparse
        if wanted.dtype == F32:
            memcpy(t.missed_f32, self.missed_f32, sizeof(self.missed_f32))
        else:
            memcpy(t.missed_f64, self.missed_f64, sizeof(self.missed_f64))
        for k in range(start, self.entries.n):
            if not _is_same(&self._places()[k].group, &wanted):
                continue
            if t.n == RMSPROP_ROWS_TABLE:
                break
            self._fill(&t.var[t.n], k, t.n_chunks)
            self._fill_rows(&t.rows[t.n], k, t, table)
            t.n += 1
        else:
            k = -1
        table.next = k
        return table

    cdef void _fill_rows(
        self, rmsprop_var_rows *rows, Py_ssize_t k, rmsprop_rows_table *t,
        RowsTable table,
    ) noexcept:
        """Describe the rows of entry k, and add what it has to the table's sums."""
        cdef const Variable *var = self._var(k)
        cdef const Entry *entry = &self.entries.entries[k]
        cdef long long groups, n_runs, n = 0
        rows.n_rows = var.n_rows
        rows.width = var.width
        rows.start = t.n_items
        rows.base = table.n_keys
        rows.partial = table.partial
        rows.steps = _address(var.counts.steps)
        rows.row_steps = _address(var.counts.row)
        rows.first_run = t.n_run_chunks
        rows.lanes = _lanes(var.width, var.dtype)
        groups = RMSPROP_THREADS // rows.lanes
        if entry.is_sparse:
            n = entry.indices.n
            rows.indices = _address(entry.indices.data)
            rows.kind = _kind(&entry.indices)
            if n > RMSPROP_SUM_RUN and self.entries.grads[k].data != NULL:
                n_runs = _blocks(n, RMSPROP_SUM_RUN)
                t.n_run_chunks += <unsigned> _blocks(n_runs, groups)
                table.partial += n_runs * var.width * param_size(var.dtype)
                table.partial += -table.partial % ALIGNMENT
        elif rows.row_steps != 0:  # pieces
            n = var.n_rows * _blocks(var.width, RMSPROP_CHUNK)
        table.n_keys += var.n_rows
        t.n_items += n
        t.n_chunks += <unsigned> _blocks(n, groups * RMSPROP_ROWS_EACH)


cdef bint _has_slots(const Variable *var, int variant) noexcept:
    cdef int slot
    for slot in range(RMSPROP_N_SLOTS):
        if rmsprop_needs_slot(variant, slot) and var.slots[slot] == NULL and var.size > 0:
            return False
    return True


cdef class RowsTable(Table):
    """Rows of some variables, and how much work and scratch they are.

    Attributes
    ----------
    next : int
        The entry after the last of this table, -1 when there is none.
    n_keys : int
        Rows of all the variables.
    partial : int
        Bytes of the sums of runs.
    """

    cdef readonly Py_ssize_t next
    cdef readonly uint64_t n_keys
    cdef readonly uint64_t partial

    cdef inline rmsprop_rows_table *_table(self) noexcept:
        return <rmsprop_rows_table *> self.data

    @property
    def n(self):
        """The number of variables."""
        return self._table().n

    @property
    def n_items(self):
        """The number of occurrences, or of pieces of rows."""
        return self._table().n_items

    @property
    def chunks(self):
        """The number of chunks of items, and of runs."""
        return self._table().n_chunks, self._table().n_run_chunks

    def place(
        self, Plan plan, uint64_t partial, uint64_t occurrences, uint64_t fault,
        long long step,
    ):
        """Set the scalars, where the scratch is, and what a fault reports."""
        cdef int k
        self._table().s = plan.scalars
        for k in range(self._table().n):
            self._table().rows[k].partial += partial
        self._table().occurrences = occurrences
        self._table().fault = fault
        self._table().step = step

    def reading(self, uint64_t occurrences):
        """Return a copy that reads its occurrences, sorted, from there."""
        cdef Table copy = Table(sizeof(rmsprop_rows_table))
        memcpy(copy.data, self.data, sizeof(rmsprop_rows_table))
        (<rmsprop_rows_table *> copy.data).occurrences = occurrences
        return copy.array


class SortPass:
    """Parameters of the kernels that sort `n` occurrences, and their numbers.

    Parameters
    ----------
    n, n_keys : int
        Occurrences, and how many rows they may name.
    is_wide : bool
        Whether an occurrence is two 64-bit numbers instead of two of 32 bits.
    """

    def __init__(self, n, n_keys, is_wide):
        self.n = n
        self.item = 16 if is_wide else 8
        self.n_passes = max(1, -(-(n_keys - 1).bit_length() // 8))
        self.n_tiles = 1
        self.tile = _blocks(n, RMSPROP_SUBTILE) * RMSPROP_SUBTILE
        if n > 2 * RMSPROP_SUBTILE:
            subtiles = _blocks(n, RMSPROP_SUBTILE)
            self.tile = RMSPROP_SUBTILE * _blocks(subtiles, RMSPROP_MAX_TILES)
            self.n_tiles = _blocks(n, self.tile)

    @property
    def n_bytes(self):
        """Bytes of scratch: the occurrences twice, and the counts of digits."""
        counts = RMSPROP_DIGITS * (self.n_tiles + 1) * self.item // 2
        return 2 * self.n * self.item + counts

    def parameter(self, scratch, k):
        """Return the parameter of pass `k`, or of all where there is one tile.

        `scratch` is the address of `n_bytes` bytes; pass k reads the first or the second list.
        """
        cdef Table table = Table(sizeof(rmsprop_sort))
        cdef rmsprop_sort *t = <rmsprop_sort *> table.data
        lists = scratch, scratch + self.n * self.item
        t.source = lists[k % 2]
        t.out = lists[1 - k % 2]
        t.counts = scratch + 2 * self.n * self.item
        t.totals = t.counts + RMSPROP_DIGITS * self.n_tiles * self.item // 2
        t.n = self.n
        t.tile = self.tile
        t.n_tiles = self.n_tiles
        t.shift = 8 * k
        t.n_passes = self.n_passes
        return table.array

    def result(self, scratch):
        """Return the address of the sorted occurrences after all passes."""
        return scratch + (self.n * self.item if self.n_passes % 2 else 0)


def norm_scales(
    uint64_t squares, uint64_t scales, long long n, StepArguments arguments,
):
    """Return the parameter of the kernel that makes scales of squares."""
    cdef Table table = Table(sizeof(rmsprop_norms))
    cdef rmsprop_norms *t = <rmsprop_norms *> table.data
    t.squares = squares
    t.scales = scales
    t.n = n
    t.factor = arguments.factor
    t.is_global = arguments.clipnorm == INFINITY
    t.norm = min(arguments.clipnorm, arguments.global_clipnorm)
    return table.array


def finite_check(
    uint64_t stop, uint64_t is_any, uint64_t nonfinite, uint64_t fault, long long n,
    long long step, bint skips,
):
    """Return the parameter of the kernel that decides about gradients not finite."""
    cdef Table table = Table(sizeof(rmsprop_finiteness))
    cdef rmsprop_finiteness *t = <rmsprop_finiteness *> table.data
    t.stop = stop
    t.is_any = is_any
    t.nonfinite = nonfinite
    t.fault = fault
    t.n = n
    t.step = step
    t.skips = skips
    return table.array
