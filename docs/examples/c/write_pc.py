"""Write rmsprop_fast.pc: where the header of this environment is, and its flag."""

from pathlib import Path

import rmsprop_fast

Path("rmsprop_fast.pc").write_text(
    f"""Name: rmsprop_fast
Description: RMSprop, one element at a time
Version: {rmsprop_fast.__version__}
Cflags: -I"{rmsprop_fast.get_include()}" -ffp-contract=off
"""
)
