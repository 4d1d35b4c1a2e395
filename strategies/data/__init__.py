"""Where the batches come from: reading them, and the processes that read them ahead."""
