"""Few rows, many row numbers, many threads: each case ends, and in the right way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from row_numbers import SECONDS, WAYS

SCRIPT = Path(__file__).parent / "row_numbers.py"


@pytest.mark.parametrize("way", WAYS)
def test_any_number_of_rows_and_indices_ends_in_the_right_way(way: str) -> None:
    # In a process of its own, which a case that hangs ends.
    done = subprocess.run(
        [sys.executable, str(SCRIPT), way],
        capture_output=True,
        text=True,
        timeout=15 * SECONDS,
    )
    assert done.returncode == 0, done.stdout[-200:] + done.stderr
