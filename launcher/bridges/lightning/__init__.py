"""lightning.Trainer."""
