"""The benchmarks: `python -m bench NAME`. Each measures the real code against a named peer in the same run.

A benchmark is a class in a module of its own (`bench.measure.Benchmark`); `bench.__main__` knows their names.
"""
