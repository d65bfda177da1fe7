"""Tables, pages and figures of a run."""
