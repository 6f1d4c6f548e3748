"""Benchmarks: ratios within one run, parties in turn. See `python -m benchmarks --help`."""
