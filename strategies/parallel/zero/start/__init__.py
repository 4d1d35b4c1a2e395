"""What comes before the first step: the release, the model, and a proof of what DeepSpeed does."""
