"""The configuration: its typed model, reading and checking it, its errors, schema and reference."""
