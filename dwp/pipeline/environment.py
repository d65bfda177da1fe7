"""Environment of every job, set before a process begins."""

# Large tensors from huge pages, and freed memory kept for the next ones instead of given back to the
# system: fresh small pages took over a quarter of a training step of the paper's source nets.
# The last two are of glibc; other C libraries ignore them.
MEMORY = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}
