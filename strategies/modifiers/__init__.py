"""What changes a step: penalty, EMA, unfreezing, loss scale, buffers."""
