"""The programs that benchmarks run: one workload a file, each a function that builds it."""
