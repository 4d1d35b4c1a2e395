"""The order in which a forward calls the blocks of fsdp, which must be the same on every rank.

Each call gathers the block's weights from all ranks. Ranks that are at another block of the same
shape would get rows of both, and add up the gradients of both, without an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from ...collectives.equality import all_equal, summands
from ...collectives.process_group import Ranks
from ...errors import ConfigError

_MODULUS = 1 << 20


class BlockOrder:
    """Follows which blocks are gathered, in a number of a few digits."""

    def __init__(self, model: nn.Module, blocks: Sequence[str], ranks: Ranks) -> None:
        """Follow a model's blocks.

        Args:
            model: the user's.
            blocks: names of its parts that are sharded by themselves.
            ranks: that shard them.
        """
        self._ranks = ranks
        self._number = 0
        self._indices = {name: index for index, name in enumerate(blocks)}
        for name in blocks:
            hook = partial(self._called, name)
            model.get_submodule(name).register_forward_pre_hook(hook)

    def _called(self, name: str, *_: object) -> None:
        self.note(name)

    def note(self, name: str) -> None:
        """Note that a block is gathered: it is called, or asked for its parameters."""
        self._number = (self._number * 31 + self._indices[name] + 1) % _MODULUS

    def require_same(self) -> None:
        """Compare what was gathered since the last time. Called on every rank, before an update.

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
