"""The order in which a forward calls the blocks of fsdp, which must be the same on every rank.

Each call gathers the block's weights from all ranks. Ranks that are at another block of the same
shape would get rows of both, and add up the gradients of both, without an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ...collectives.equality import all_equal, summands
from ...collectives.process_group import Ranks
from ...errors import ConfigError

_MODULUS = 1 << 20


class BlockOrder:
    """Follows the calls of blocks, in a number of a few digits."""

    def __init__(self, model: nn.Module, blocks: Sequence[str], ranks: Ranks) -> None:
        """Follow a model's blocks.

        Args:
            model: the user's.
            blocks: names of its parts that are sharded by themselves.
            ranks: that shard them.
        """
        self._ranks = ranks
        self._number = 0
        for index, name in enumerate(blocks):
            model.get_submodule(name).register_forward_pre_hook(self._hook(index))

    def _hook(self, index: int) -> Any:
        def called(*_: object) -> None:
            self._number = (self._number * 31 + index + 1) % _MODULUS

        return called

    def require_same(self) -> None:
        """Compare what was called since the last time. Called on every rank, before an update.

        Raises:
            ConfigError: the ranks have called their blocks in another order.
        """
        number, self._number = self._number, 0
        total, squares = self._ranks.channel.start(summands(number)).wait()
        if not all_equal(total, squares, self._ranks.world_size):
            raise ConfigError(
                "the model's blocks were called in another order on some ranks, and under "
                "strategy=fsdp all ranks gather the weights of one block after the other: they "
                "would be mixed up. Call the blocks in the same order for any samples, or use "
                "--strategy ddp or zero2."
            )
