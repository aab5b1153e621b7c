"""Metrics of the benchmark, one file each: every module here defines a `METRIC`."""
