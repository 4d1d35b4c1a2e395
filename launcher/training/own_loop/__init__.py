"""A loop that the script wrote itself, made resumable: `Resumable`."""
