"""A lock that one thread holds at a time and that refuses to be taken twice."""

from cpython.pythread cimport PyThread_get_thread_ident

import threading


cdef class Exclusive:
    """A context manager: other threads wait; a second entry of the same thread fails.

    The second entry comes from a finaliser or a callback in the middle of a call. It
    could change the state that the call is using.
    """

    cdef object lock
    cdef unsigned long owner  # 0: nobody

    def __cinit__(self):
        self.lock = threading.Lock()
        self.owner = 0

    def __enter__(self):
        cdef unsigned long me = PyThread_get_thread_ident()
        if self.owner == me:
            raise RuntimeError(
                "the optimizer is in the middle of another call of this thread: it "
                "cannot be used from a finaliser or a callback of that call")
        self.lock.acquire()
        self.owner = me
        return self

    def __exit__(self, *exception):
        self.owner = 0
        self.lock.release()
