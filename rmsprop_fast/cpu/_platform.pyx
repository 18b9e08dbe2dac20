"""What this machine and this build have: instruction sets, OpenMP, the compiler."""

cdef extern from "rmsprop_fast/cpu/_platform.h" nogil:
    const int RMSPROP_OPENMP
    const char *RMSPROP_COMPILER
    bint rmsprop_has_avx2()
    bint rmsprop_has_avx512()
    int rmsprop_max_threads()
    int rmsprop_end_threads()

# Every instruction set that may have loops, the best last, and whether the machine
# can run it: the processor has it and the operating system saves its registers.
ISAS = {
    "baseline": True,
    "avx2": bool(rmsprop_has_avx2()),
    "avx512": bool(rmsprop_has_avx512()),
}

# The date of the OpenMP version (201511 is 4.5), or 0 for serial loops.
OPENMP = RMSPROP_OPENMP

COMPILER = RMSPROP_COMPILER.decode()


def max_threads():
    """Return how many threads OpenMP would start; threadpoolctl can limit them."""
    return rmsprop_max_threads()


def end_threads():
    """End the idle threads of OpenMP; return whether a fork is now safe."""
    return rmsprop_end_threads() == 0
