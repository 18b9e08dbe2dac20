"""The loops in use: one table for the process, set when the package is imported."""

from cpython.pycapsule cimport PyCapsule_GetPointer


def use(capsule):
    """Run the loops that this `spans` capsule of a _loops module points to."""
    global spans
    cdef const Spans *table = <const Spans *> PyCapsule_GetPointer(
        capsule, "rmsprop_fast.cpu.spans")
    if table.version != SPANS_VERSION:
        raise ImportError(
            f"the loops have version {table.version}, this build needs {SPANS_VERSION}")
    spans = table
