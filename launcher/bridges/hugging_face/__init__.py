"""transformers.Trainer, and the trainers of TRL that are made of it."""
