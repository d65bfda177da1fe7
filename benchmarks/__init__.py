"""Benchmarks of the library; docs/performance.md describes each."""
