"""Inside a rank: what a training script holds, and what runs its loop."""
