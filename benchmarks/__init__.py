"""What the library costs, measured: see `published`, `scaling` and `startup`."""
