"""At the start of an exact run: whether the kernels return the same bits each time."""

from __future__ import annotations

import torch

from strategies import ConfigError, Strategy


class KernelCheck:
    """Computes the first micro-batch of a start twice, operation by operation, with --exact.

    Not where torch.compile has compiled parts of the model: nothing is repeated then.
    """

    def __init__(self, strategy: Strategy) -> None:
        """Look at the options of a strategy, and at its model."""
        self._repeated = None
        self._is_exact_on_gpu = strategy.options.exact and strategy.ranks.device.type == "cuda"
        if strategy.options.exact and not strategy.options.compile_blocks:
            from strategies.parallel.trial.repeated_kernels import RepeatedKernels

            self._repeated = RepeatedKernels(strategy.module)

    def begin(self) -> None:
        """Begin before a forward; nothing after the first micro-batch."""
        if self._repeated is not None:
            self._repeated.begin()

    def stop(self) -> None:
        """End without a verdict: the step is left."""
        if self._repeated is not None:
            self._repeated.end()

    def end(self, where: str) -> None:
        """End after the backward.

        Raises:
            ConfigError: a kernel returned two results for the same input, on this rank, or cuDNN
                takes what is fastest, which may be another kernel at the next start.
        """
        if self._is_exact_on_gpu and torch.backends.cudnn.benchmark:
            raise ConfigError(
                "--exact needs the same kernels at each start, and with "
                "torch.backends.cudnn.benchmark = True cuDNN chooses convolutions by measured "
                f"times ({where}). Leave it False, or leave --exact out."
            )
        repeated, self._repeated = self._repeated, None
        if repeated is not None and (found := repeated.end()) is not None:
            raise ConfigError(
                f"--exact needs kernels that return the same bits each time, and {found} returned "
                f"two results for the same input ({where}). Call "
                "torch.use_deterministic_algorithms(True), use another operation there, or leave "
                "--exact out."
            )
