"""Tell build scripts and people what this build is: ``python -m rmsprop_fast``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rmsprop_fast import __version__, get_include, show_config

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, those of the process if omitted.
    """
    parser = argparse.ArgumentParser(
        "python -m rmsprop_fast",
        description="RMSprop over NumPy arrays; how to build against its C header.",
        epilog="For example: cc -O3 -ffp-contract=off "
        '-I"$(python -m rmsprop_fast --include)" train.c -lm',
    )
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument(
        "--include",
        action="store_true",
        help="print the folder for a compiler's -I: #include <rmsprop_fast/rmsprop.h>",
    )
    choice.add_argument(
        "--config",
        action="store_true",
        help="print instruction set, OpenMP, threads and compiler",
    )
    choice.add_argument("--version", action="version", version=__version__)
    arguments = parser.parse_args(argv)
    if arguments.include:
        print(get_include())
    else:
        show_config()


if __name__ == "__main__":
    main()
