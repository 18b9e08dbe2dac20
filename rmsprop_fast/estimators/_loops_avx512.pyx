include "_loops.pxi"
