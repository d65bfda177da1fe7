"""Configuration, plan, provenance, storage of artifacts, jobs and command line."""
