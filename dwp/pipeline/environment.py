"""Environment of every job, set before its process starts."""

# Large tensors in huge pages, and freed memory kept for reuse instead of returned to the system: new
# small pages took over a quarter of a training step of the paper's source networks.
# The last two variables are glibc's; other C libraries ignore them.
MEMORY = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}
