"""The training loop: steps, evaluations, rollback."""
