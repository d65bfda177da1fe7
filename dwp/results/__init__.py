"""Results on disk: list, compare, verify, make again, share, export and remove what the workflow has made."""
