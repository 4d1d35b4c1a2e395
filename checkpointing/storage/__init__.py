"""Where bytes are: local files, object stores, the two ways to commit."""
