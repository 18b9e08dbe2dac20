"""Benchmarks against peers and against what memory allows: ``python -m benchmarks``."""
