"""The work of each rule: `main(job)` reads a job's inputs, calls the library and writes the outputs."""
