"""One way to spread a model over ranks: single, ddp, fsdp, zero1, zero2, zero3, accelerate."""
