"""A step's arrays on devices: every rule tested, then the kernels' parameters filled.

The counterpart of `cpu._step` for CuPy's arrays, which this module knows by their public
attributes alone: it is compiled and imported without CuPy. The tests here say only yes
or no; `step_rules` words the error.
"""

cimport numpy as cnp
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.ref cimport PyObject
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from rmsprop_fast.cpu._extents cimport Extents
from rmsprop_fast.header cimport RMSPROP_CENTERED as CENTERED, RMSPROP_MOMENTUM as MOMENTUM
from rmsprop_fast.header cimport (
    rmsprop_coef_make_f32, rmsprop_coef_make_f64, rmsprop_idle_f32, rmsprop_idle_f64,
    rmsprop_idle_powers_f32, rmsprop_idle_powers_f64,
)

from weakref import ref

import numpy as np

from rmsprop_fast import backends
from rmsprop_fast.indexed_slices import IndexedSlices

cnp.import_array()

THREADS = RMSPROP_THREADS
DIGITS = RMSPROP_DIGITS
IDLE_BITS = CENTERED | MOMENTUM  # of a variant: what a gradient of zero depends on
NONFINITE_FOUND = RMSPROP_NONFINITE_FOUND

cdef enum:
    ALIGNMENT = 16  # bytes of a kernel's widest access


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


cdef class Record:
    """A bound variable on a device, and its slots."""

    cdef object var, slots      # they must outlive their addresses
    cdef object seen            # the caller's own array that was found to be `var`
    cdef object shape, dtype
    cdef Py_ssize_t index
    cdef uint64_t address, rms, mom, mg
    cdef uint64_t steps_made, row_steps  # see `slots.Slots`
    cdef long long size, n_rows, width
    cdef int device, is_double
    cdef bint decays
    cdef object grad_seen       # a weak reference to a dense gradient that fits
    cdef uint64_t grad_address  # of the last that did
    cdef uint64_t grad          # the last gradient whose addresses were found free
    cdef Py_ssize_t grad_epoch
    cdef Py_ssize_t step, meetings


cdef struct Entry:
    PyObject *record            # NULL: only its gradient matters
    int device, is_double
    uint64_t grad               # or values
    uint64_t indices
    long long size              # elements of grad or values
    long long n                 # occurrences
    int kind                    # of integer
    int pair
    unsigned scale              # place among its device's gradients
    Py_ssize_t group


cdef uint64_t _address(array) except? 1:
    return 0 if array is None else array.data.ptr


cdef inline bint _is_contiguous(array) except -1:
    # CuPy's flags make an object first: ten times slower.
    try:
        return array._c_contiguous
    except AttributeError:
        return array.flags.c_contiguous


cdef int _kind(dtype) except -2:
    """Return the kernels' number of an integer dtype, -1 for another."""
    cdef str kind = dtype.kind
    cdef int size = dtype.itemsize
    if kind != "i" and kind != "u" or not dtype.isnative:
        return -1
    return 2 * (size.bit_length() - 1) + (kind == "u")


cdef unsigned char _lanes(long long width, int is_double) noexcept:
    """Return how many threads share a row: those of its 16-byte packs, at most a warp."""
    cdef long long packs = (width * (8 if is_double else 4) + 15) // 16
    cdef unsigned char lanes = 1
    while lanes < 32 and lanes < packs:
        lanes *= 2
    return lanes


cdef class Plan:
    """The bound variables on devices, and one step over them.

    Parameters
    ----------
    by_key : dict of int to int
        From an array's address to its index, kept by `slots.Slots`.
    extents : Extents
        The addresses of every bound variable and slot, kept by `slots.Slots`.
    silent : set of frozenset of (address, shape, strides)
        Sets of variables whose missing gradients were warned about.
    array_type : type
        CuPy's ndarray.
    """

    cdef dict by_key
    cdef Extents extents
    cdef set silent
    cdef dict records           # by index
    cdef list order             # the records as they were bound
    cdef Entry *entries
    cdef Py_ssize_t capacity, n
    cdef Py_ssize_t epoch, steps
    cdef type array_type
    cdef rmsprop_scalars scalars
    cdef rmsprop_idle_f32[RMSPROP_COUNT_BITS] idle_f32
    cdef rmsprop_idle_f64[RMSPROP_COUNT_BITS] idle_f64
    # Of the collected step: what is left to the host, and the launches' common traits,
    # (device, turn, is_sparse, is_double), in the order they were met.
    cdef readonly list host_pairs, groups

    def __init__(self, dict by_key, Extents extents, set silent, type array_type):
        self.by_key = by_key
        self.extents = extents
        self.silent = silent
        self.array_type = array_type
        self.records = {}
        self.order = []
        self.host_pairs = []
        self.groups = []

    def __dealloc__(self):
        free(self.entries)

    def bind(
        self, Py_ssize_t index, var, rms, momentum, mg, steps=None, row_steps=None,
        bint decays=True,
    ):
        """Note where variable `index` and its slots are; again when it gets a slot."""
        cdef Record record = self.records.get(index)
        self.epoch += 1
        if record is None:
            record = self.records[index] = Record()
            self.order.append(record)
        record.var = var
        record.seen = record.grad_seen = None
        record.decays = decays
        record.index = index
        record.slots = (rms, momentum, mg, steps, row_steps)
        record.shape = var.shape
        record.dtype = var.dtype
        record.is_double = var.dtype.itemsize == 8
        record.address = _address(var)
        record.rms = _address(rms)
        record.mom = _address(momentum)
        record.mg = _address(mg)
        record.steps_made = _address(steps)
        record.row_steps = _address(row_steps)
        record.device = backends.device_id(var)
        record.size = var.size
        record.n_rows = var.shape[0] if var.ndim else 1
        record.width = record.size // max(record.n_rows, 1)

    @property
    def dtypes(self):
        """What bound variables are there: (device, is_double), each once."""
        cdef Record record
        return list(dict.fromkeys(
            [(record.device, record.is_double) for record in self.order]))

    # --- The rules --------------------------------------------------------------------

    cdef Record _find(self, var, Py_ssize_t hint):
        """Return the record that `var` is the array of, or None."""
        cdef Record record
        if hint < PyList_GET_SIZE(self.order):
            record = <Record> PyList_GET_ITEM(self.order, hint)
            if record.seen is var:
                return record
        address = var.data.ptr
        index = self.by_key.get(address if var.size else (address, var.shape))
        if index is None:
            return None
        record = self.records.get(index)
        if (record is None or var.shape != record.shape or var.dtype != record.dtype
                or not _is_contiguous(var)):
            return None
        record.seen = var
        return record

    cdef bint _has_slots(self, Record record, int variant) noexcept:
        if record.size == 0:
            return True  # its slots have no address
        return record.rms != 0 and (record.mg != 0 or not variant & CENTERED) and (
            record.mom != 0 or not variant & MOMENTUM)

    cdef bint _is_free(self, Record record, uint64_t address, long long size):
        """Whether a gradient's memory is surely no variable's and no slot's."""
        cdef Py_ssize_t item = 8 if record.is_double else 4
        if record.grad == address and record.grad_epoch == self.epoch:
            return True
        if size and self.extents.touches(address, address + size * item):
            return False
        if size == record.size:
            record.grad = address
            record.grad_epoch = self.epoch
        return True

    cdef bint _takes_array(self, Record record, Entry *entry, grad) except -1:
        """Whether a dense gradient fits the record."""
        cdef object data, dtype
        entry.size = record.size
        if record.grad_seen is not None and record.grad_seen() is grad:
            entry.grad = record.grad_address  # what is asked below never changes
            return True
        if not isinstance(grad, self.array_type):
            return False
        data = grad.data
        dtype = grad.dtype
        if (dtype is not record.dtype and dtype != record.dtype
                or grad.shape != record.shape or not _is_contiguous(grad)
                or data.device_id != record.device):
            return False
        entry.grad = data.ptr
        # A buffer that is used again, it seems: the next time it need not be asked.
        record.grad_seen = ref(grad) if entry.grad == record.grad_address else None
        record.grad_address = entry.grad
        return True

    cdef bint _takes_slices(self, Record record, Entry *entry, slices) except -1:
        """Whether row-sparse `slices` fit the record; the device tests the rows."""
        cdef object values = slices._values
        cdef object indices = slices._indices
        cdef object dense_shape = slices._dense_shape
        if (not isinstance(values, self.array_type)
                or not isinstance(indices, self.array_type)
                or values.dtype != record.dtype or not record.shape
                or values.ndim != len(record.shape)
                or values.shape[1:] != record.shape[1:] or indices.ndim != 1
                or indices.size != values.shape[0]
                or not _is_contiguous(values) or not _is_contiguous(indices)
                or values.data.device_id != record.device
                or indices.data.device_id != record.device):
            return False
        entry.kind = _kind(indices.dtype)
        if entry.kind < 0 or dense_shape is not None and dense_shape != record.shape:
            return False
        entry.grad = values.data.ptr
        entry.size = values.size
        entry.indices = indices.data.ptr
        entry.n = indices.size
        return True

    cdef Py_ssize_t _group(self, Record record, bint is_sparse, Py_ssize_t turn) except -1:
        """Return the number of the group of launches that an entry belongs to."""
        cdef tuple group = (record.device, turn, is_sparse, record.is_double)
        if group not in self.groups:
            self.groups.append(group)
        return self.groups.index(group)

    cdef int _reserve(self, Py_ssize_t n) except -1:
        if n > self.capacity:
            free(self.entries)
            self.capacity = 0
            self.entries = <Entry *> malloc(n * sizeof(Entry))
            if self.entries == NULL:
                raise MemoryError
            self.capacity = n
        return 0

    def collect(self, list pairs, int variant, bint overlaps_checked):
        """Test every rule about devices; return whether none is broken.

        `host_pairs` are then the pairs whose rules the host's step tests, `groups` say
        what there is to launch. Nothing has changed.

        Parameters
        ----------
        pairs : list of (gradient, variable) tuples
            Nobody else holds the list.
        variant : int
            The sum of CENTERED (1), MOMENTUM (2) and EPS_IN_SQRT (4).
        overlaps_checked : bool
            Do not look for gradients that overlap a variable or a slot.
        """
        cdef Py_ssize_t n = PyList_GET_SIZE(pairs), k, used = 0
        cdef object pair, grad, var
        cdef list missing = None, host = []
        cdef Record record, before = None
        cdef Entry *entry
        self._reserve(n)
        self.steps += 1
        self.n = 0
        self.groups = []
        for k in range(n):
            pair = <object> PyList_GET_ITEM(pairs, k)
            if not PyTuple_CheckExact(pair) or PyTuple_GET_SIZE(pair) != 2:
                return False
            grad = <object> PyTuple_GET_ITEM(pair, 0)
            var = <object> PyTuple_GET_ITEM(pair, 1)
            if grad is None:
                if missing is None:
                    missing = []
                if not backends.is_array(var):
                    return False
                missing.append((backends.address(var), var.shape, var.strides))
                continue
            if cnp.PyArray_Check(var):
                host.append(pair)
                continue
            if not isinstance(var, self.array_type):
                return False
            record = self._find(var, used)
            if record is None or not self._has_slots(record, variant):
                return False
            entry = &self.entries[used]
            entry.indices = 0
            entry.n = 0
            entry.kind = -1
            if type(grad) is IndexedSlices:
                if not self._takes_slices(record, entry, grad):
                    return False
            elif not self._takes_array(record, entry, grad):
                return False
            if not overlaps_checked and not self._is_free(record, entry.grad, entry.size):
                return False
            if record.step != self.steps:
                record.step = self.steps
                record.meetings = 0
            entry.record = <PyObject *> record
            entry.device = record.device
            entry.is_double = record.is_double
            entry.pair = k
            if (before is not None and record.meetings == 0 and entry.kind == -1
                    and self.entries[used - 1].kind == -1
                    and before.meetings == 1 and before.device == record.device
                    and before.is_double == record.is_double):
                entry.group = self.entries[used - 1].group
            else:
                entry.group = self._group(record, entry.kind != -1, record.meetings)
            record.meetings += 1
            before = record
            used += 1
        if missing is not None and frozenset(missing) not in self.silent:
            return False
        if used == 0 and not host:
            return False
        self._number(used)
        self.n = used
        self.host_pairs = host
        return True

    cdef int _number(self, Py_ssize_t n) except -1:
        """Count each device's gradients in their order."""
        cdef Py_ssize_t k
        cdef dict counts = {}
        for k in range(n):
            self.entries[k].scale = counts.get(self.entries[k].device, 0)
            counts[self.entries[k].device] = self.entries[k].scale + 1
        return 0

    def collect_gradients(self, list grads):
        """Take arrays as they are; `fill_gradients` and `fill_take` then read them."""
        cdef Entry *entry
        cdef Py_ssize_t k
        self._reserve(len(grads))
        for k in range(len(grads)):
            entry = &self.entries[k]
            entry.record = NULL
            entry.device = grads[k].data.device_id
            entry.is_double = grads[k].dtype.itemsize == 8
            entry.grad = grads[k].data.ptr
            entry.size = grads[k].size
            entry.pair = k
        self.n = len(grads)
        self.groups = []
        self._number(self.n)

    def collect_idle(self, list indices, int variant, rows=None):
        """Take the variables of `indices` that are here, to let rows catch up.

        `rows`, a device's array of any integer dtype, are of the one variable.
        """
        cdef Record record
        cdef Entry *entry
        cdef Py_ssize_t index
        self._reserve(len(indices))
        self.n = 0
        self.groups = []
        for index in indices:
            record = self.records.get(index)
            if record is None or rows is None and record.row_steps == 0:
                continue
            if not self._has_slots(record, variant):
                continue  # all its rows caught up when the variant was set
            entry = &self.entries[self.n]
            memset(entry, 0, sizeof(Entry))
            entry.record = <PyObject *> record
            entry.device = record.device
            entry.is_double = record.is_double
            entry.pair = -1
            if rows is not None:
                entry.kind = _kind(rows.dtype)
                entry.indices = rows.data.ptr
                entry.n = rows.size
            entry.group = self._group(record, rows is not None, 0)
            self.n += 1

    # --- The work ---------------------------------------------------------------------

    def set_scalars(
        self, double lr, double rho, double momentum, double epsilon, double weight_decay,
        double factor, double clip, uint64_t lr_address=0, bint lr_is_f32=False,
    ):
        """Set the step's numbers; with `lr_address`, `lr` divides what is there."""
        self.scalars.lr = lr
        self.scalars.rho = rho
        self.scalars.momentum = momentum
        self.scalars.epsilon = epsilon
        self.scalars.weight_decay = weight_decay
        self.scalars.factor = factor
        self.scalars.clip = clip
        self.scalars.lr_address = lr_address
        self.scalars.lr_is_f32 = lr_is_f32

    def set_idle_powers(self, double rho, double momentum):
        """Prepare what rows catch up by."""
        rmsprop_idle_powers_f32(
            self.idle_f32, rmsprop_coef_make_f32(0, rho, momentum, 0, 1, 1, 0),
            (<uint64_t> 1 << RMSPROP_COUNT_BITS) - 1)
        rmsprop_idle_powers_f64(
            self.idle_f64, rmsprop_coef_make_f64(0, rho, momentum, 0, 1, 1, 0),
            (<uint64_t> 1 << RMSPROP_COUNT_BITS) - 1)

    def use(self, uint64_t stop, uint64_t scales=0, uint64_t skip=0):
        """Set the addresses, on the device to be filled for, of flags and of norms."""
        self.scalars.stop = stop
        self.scalars.scales = scales
        self.scalars.skip = skip

    def count(self, int device):
        """Return a device's number of gradients and of blocks whose squares are summed."""
        cdef Py_ssize_t k, n = 0, n_blocks = 0
        for k in range(self.n):
            if self.entries[k].device == device:
                n += 1
                n_blocks += _norm_blocks(self.entries[k].size)
        return n, n_blocks

    def fill_dense(self, tuple group, Py_ssize_t start):
        """Return a table of a group's updates from entry `start` on.

        And the entry to go on from, -1 after the last, and the number of chunks.
        """
        cdef Table table = Table(sizeof(rmsprop_dense))
        cdef rmsprop_dense *t = <rmsprop_dense *> table.data
        cdef Py_ssize_t wanted = self.groups.index(group), k
        cdef Record record
        cdef unsigned chunks = 0
        cdef int n = 0
        t.s = self.scalars
        for k in range(start, self.n):
            if self.entries[k].group != wanted:
                continue
            if n == RMSPROP_TABLE:
                break
            record = <Record> self.entries[k].record
            t.param[n] = record.address
            t.grad[n] = self.entries[k].grad
            t.rms[n] = record.rms
            t.mg[n] = record.mg
            t.mom[n] = record.mom
            t.size[n] = record.size
            t.scale[n] = self.entries[k].scale
            t.decays[n] = record.decays
            t.first[n] = chunks
            chunks += <unsigned> _chunks(record.size, RMSPROP_CHUNK)
            n += 1
        else:
            k = -1
        t.first[n] = chunks
        t.n = n
        return table.array, k, chunks

    def fill_gradients(
        self, int device, int is_double, Py_ssize_t start, uint64_t sums,
        uint64_t squares, uint64_t is_any, uint64_t nonfinite,
    ):
        """Return a table of a device's gradients of a dtype from entry `start` on.

        And the entry to go on from, -1 after the last, the number of gradients and of
        blocks.
        """
        cdef Table table = Table(sizeof(rmsprop_gradients))
        cdef rmsprop_gradients *t = <rmsprop_gradients *> table.data
        cdef Py_ssize_t k
        cdef unsigned blocks = 0
        cdef int n = 0
        for k in range(start, self.n):
            if (self.entries[k].device != device
                    or self.entries[k].is_double != is_double):
                continue
            if n == RMSPROP_TABLE:
                break
            t.grad[n] = self.entries[k].grad
            t.size[n] = self.entries[k].size
            t.scale[n] = self.entries[k].scale
            t.pair[n] = self.entries[k].pair
            if self.entries[k].record != NULL:
                t.variable[n] = (<Record> self.entries[k].record).index
            t.first[n] = blocks
            blocks += <unsigned> _norm_blocks(self.entries[k].size)
            n += 1
        else:
            k = -1
        t.first[n] = blocks
        t.sums = sums
        t.squares = squares
        t.is_any = is_any
        t.nonfinite = nonfinite
        t.n = n
        return table.array, k, n, blocks

    def fill_rows(self, tuple group, Py_ssize_t start):
        """Return a table of a group's row-sparse updates from entry `start` on.

        And the entry to go on from, -1 after the last; the numbers of occurrences and
        of keys, the bytes that sums of runs need; the chunks of rows and of runs.
        `place_rows` completes the table.
        """
        cdef Table table = Table(sizeof(rmsprop_rows))
        cdef rmsprop_rows *t = <rmsprop_rows *> table.data
        cdef Py_ssize_t wanted = self.groups.index(group), k
        cdef Record record
        cdef uint64_t keys = 0, partial = 0
        cdef long long n_runs, groups, occurrences = 0
        cdef unsigned chunks = 0, run_chunks = 0
        cdef int n = 0
        for k in range(start, self.n):
            if self.entries[k].group != wanted:
                continue
            if n == RMSPROP_ROWS_TABLE:
                break
            record = <Record> self.entries[k].record
            t.param[n] = record.address
            t.values[n] = self.entries[k].grad
            t.rms[n] = record.rms
            t.mg[n] = record.mg
            t.mom[n] = record.mom
            t.indices[n] = self.entries[k].indices
            t.partial[n] = partial
            t.n_rows[n] = record.n_rows
            t.width[n] = record.width
            t.base[n] = keys
            t.start[n] = occurrences
            t.first[n] = chunks
            t.first_run[n] = run_chunks
            t.scale[n] = self.entries[k].scale
            t.pair[n] = self.entries[k].pair
            t.kind[n] = self.entries[k].kind
            t.decays[n] = record.decays
            t.lanes[n] = _lanes(record.width, record.is_double)
            groups = RMSPROP_THREADS // t.lanes[n]
            keys += record.n_rows
            occurrences += self.entries[k].n
            chunks += <unsigned> _chunks(self.entries[k].n, groups * RMSPROP_ROWS_EACH)
            if self.entries[k].n > RMSPROP_SUM_RUN and self.entries[k].grad != 0:
                n_runs = _chunks(self.entries[k].n, RMSPROP_SUM_RUN)
                run_chunks += <unsigned> _chunks(n_runs, groups)
                partial += n_runs * record.width * (8 if record.is_double else 4)
                partial += -partial % ALIGNMENT
            n += 1
        else:
            k = -1
        t.start[n] = occurrences
        t.first[n] = chunks
        t.first_run[n] = run_chunks
        t.n = n
        return table, k, occurrences, keys, partial, chunks, run_chunks

    def place_rows(
        self, Table table, uint64_t partial, uint64_t occurrences, uint64_t fault,
        long long step,
    ):
        """Set where a table's scratch lies, and what a fault reports."""
        cdef rmsprop_rows *t = <rmsprop_rows *> table.data
        cdef int k
        t.s = self.scalars
        for k in range(t.n):
            t.partial[k] += partial
        t.occurrences = occurrences
        t.fault = fault
        t.step = step

    def read_rows(self, Table table, uint64_t occurrences):
        """Return a copy of the table that reads its occurrences, sorted, from there."""
        cdef Table copy = Table(sizeof(rmsprop_rows))
        memcpy(copy.data, table.data, sizeof(rmsprop_rows))
        (<rmsprop_rows *> copy.data).occurrences = occurrences
        return copy.array

    cdef Table _idle_table(self, int made, bint is_all):
        cdef Table table = Table(sizeof(rmsprop_idle_rows))
        cdef rmsprop_idle_rows *t = <rmsprop_idle_rows *> table.data
        t.s = self.scalars
        memcpy(t.idle_f32, self.idle_f32, sizeof(self.idle_f32))
        memcpy(t.idle_f64, self.idle_f64, sizeof(self.idle_f64))
        t.made = made
        t.is_all = is_all
        return table

    cdef int _describe_idle(self, rmsprop_idle_rows *t, int n, Record record) except -1:
        """Set what both kinds of idle table have of variable n."""
        t.param[n] = record.address
        t.rms[n] = record.rms
        t.mg[n] = record.mg
        t.mom[n] = record.mom
        t.steps[n] = record.steps_made
        t.row_steps[n] = record.row_steps
        t.width[n] = record.width
        t.pieces[n] = _chunks(record.width, RMSPROP_CHUNK)
        t.lanes[n] = _lanes(record.width, record.is_double)
        return 0

    def fill_idle(self, tuple group, Py_ssize_t start, int made):
        """Return a table of all rows of a group's variables from entry `start` on.

        And the entry to go on from, -1 after the last, the number of chunks and of
        variables. `made` is how many steps they make now.
        """
        cdef Table table = self._idle_table(made, True)
        cdef rmsprop_idle_rows *t = <rmsprop_idle_rows *> table.data
        cdef Py_ssize_t wanted = self.groups.index(group), k
        cdef Record record
        cdef long long pieces = 0, more
        cdef unsigned chunks = 0
        cdef int n = 0
        for k in range(start, self.n):
            if self.entries[k].group != wanted:
                continue
            if n == RMSPROP_ROWS_TABLE:
                break
            record = <Record> self.entries[k].record
            self._describe_idle(t, n, record)
            t.start[n] = pieces
            t.first[n] = chunks
            if record.row_steps != 0:
                more = record.n_rows * t.pieces[n]
                pieces += more
                chunks += <unsigned> _chunks(
                    more, RMSPROP_THREADS // t.lanes[n] * RMSPROP_ROWS_EACH)
            n += 1
        else:
            k = -1
        t.start[n] = pieces
        t.first[n] = chunks
        t.n = n
        return table.array, k, chunks, n

    def fill_idle_rows(
        self, Table table, tuple group, Py_ssize_t start, uint64_t occurrences, int made,
    ):
        """Return a table of the rows in one that `fill_rows` filled from `start` on.

        `occurrences` is where they are sorted, `made` as for `fill_idle`.
        """
        cdef Table idle = self._idle_table(made, False)
        cdef rmsprop_idle_rows *t = <rmsprop_idle_rows *> idle.data
        cdef rmsprop_rows *rows = <rmsprop_rows *> table.data
        cdef Py_ssize_t wanted = self.groups.index(group), k = start
        while t.n < rows.n:
            if self.entries[k].group == wanted:
                self._describe_idle(t, t.n, <Record> self.entries[k].record)
                t.base[t.n] = rows.base[t.n]
                t.start[t.n] = rows.start[t.n]
                t.first[t.n] = rows.first[t.n]
                t.n += 1
            k += 1
        t.start[t.n] = rows.start[t.n]
        t.first[t.n] = rows.first[t.n]
        t.occurrences = occurrences
        return idle.array

    def fill_take(
        self, list outs, int device, int is_double, Py_ssize_t start,
    ):
        """Return a table of collected gradients, to be clipped into `outs`.

        And the entry to go on from, -1 after the last, and the number of chunks.
        """
        cdef Table table = Table(sizeof(rmsprop_dense))
        cdef rmsprop_dense *t = <rmsprop_dense *> table.data
        cdef Py_ssize_t k
        cdef unsigned chunks = 0
        cdef int n = 0
        t.s = self.scalars
        for k in range(start, self.n):
            if (self.entries[k].device != device
                    or self.entries[k].is_double != is_double):
                continue
            if n == RMSPROP_TABLE:
                break
            t.param[n] = outs[k].data.ptr
            t.grad[n] = self.entries[k].grad
            t.rms[n] = t.mg[n] = t.mom[n] = 0
            t.size[n] = self.entries[k].size
            t.scale[n] = self.entries[k].scale
            t.first[n] = chunks
            chunks += <unsigned> _chunks(t.size[n], RMSPROP_CHUNK)
            n += 1
        else:
            k = -1
        t.first[n] = chunks
        t.n = n
        return table.array, k, chunks


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
        self.tile = _chunks(n, RMSPROP_SUBTILE) * RMSPROP_SUBTILE
        if n > 2 * RMSPROP_SUBTILE:
            subtiles = _chunks(n, RMSPROP_SUBTILE)
            self.tile = RMSPROP_SUBTILE * _chunks(subtiles, RMSPROP_MAX_TILES)
            self.n_tiles = _chunks(n, self.tile)

    @property
    def n_bytes(self):
        """Bytes of scratch: the occurrences twice, and the counts of digits."""
        counts = RMSPROP_DIGITS * (self.n_tiles + 1) * self.item // 2
        return 2 * self.n * self.item + counts

    def parameter(self, scratch, k):
        """Return the parameter of pass `k`, or of all where there is one tile.

        `scratch` is where `n_bytes` lie; pass k reads the first or the second list.
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
        """Return where the sorted occurrences lie after all passes."""
        return scratch + (self.n * self.item if self.n_passes % 2 else 0)


def norm_factors(
    uint64_t squares, uint64_t scales, long long n, double factor, double norm,
    bint is_global,
):
    """Return the parameter of the kernel that makes factors of squares."""
    cdef Table table = Table(sizeof(rmsprop_norm_scales))
    cdef rmsprop_norm_scales *t = <rmsprop_norm_scales *> table.data
    t.squares = squares
    t.scales = scales
    t.n = n
    t.factor = factor
    t.norm = norm
    t.is_global = is_global
    return table.array


def verdict(
    uint64_t stop, uint64_t is_any, uint64_t nonfinite, uint64_t fault, long long n,
    long long step, bint skips,
):
    """Return the parameter of the kernel that judges gradients that are not finite."""
    cdef Table table = Table(sizeof(rmsprop_verdict))
    cdef rmsprop_verdict *t = <rmsprop_verdict *> table.data
    t.stop = stop
    t.is_any = is_any
    t.nonfinite = nonfinite
    t.fault = fault
    t.n = n
    t.step = step
    t.skips = skips
    return table.array


cdef inline long long _chunks(long long n, long long each) noexcept:
    return (n + each - 1) // each


cdef inline long long _norm_blocks(long long size) noexcept:
    return _chunks(size, RMSPROP_NORM_BLOCK)
