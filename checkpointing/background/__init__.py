"""Save beside the training: staging memory and the writer process."""
