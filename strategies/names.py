"""The names of the precisions, apart from `precision`: the command line imports no torch."""

PRECISION_NAMES: tuple[str, ...] = ("fp32", "bf16", "fp16")
