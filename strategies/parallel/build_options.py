"""How a model is built, beyond its strategy; and which strategy can do what. Without torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError

AS_BUILT = "as-built"
"""The model's factory fills the parameters, one random stream for all of them."""
BY_NAME = "by-name"
"""Each parameter is drawn from a stream of its own, after the model is sharded."""

_SHARDED = ("fsdp",)
_ANY = ("single", "ddp", "fsdp", "zero1", "zero2", "zero3")
_HONOURED_BY: dict[str, tuple[str, ...]] = {
    "shard_blocks": _SHARDED,
    "hybrid_shard": _SHARDED,
    "offload": ("fsdp", "zero1", "zero2", "zero3"),
    "checkpoint_blocks": (*_ANY, "accelerate"),
    "compile_blocks": ("single", "ddp", "fsdp"),
}


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What a script or the command line asks of a strategy besides its name."""

    shard_blocks: tuple[str, ...] = ()
    """Blocks that fsdp shards on their own, as `find_blocks` takes them; (): found by themselves.
    """
    hybrid_shard: bool = False
    """Shard over the ranks of one node only, and replicate over the nodes."""
    local_world_size: int = 1
    """Ranks of one node."""
    checkpoint_blocks: bool | tuple[str, ...] = False
    """Blocks whose activations are computed again in the backward; True: found by themselves."""
    compile_blocks: bool | tuple[str, ...] = False
    """Blocks that torch.compile compiles; True: found by themselves."""
    offload: bool = False
    """Keep masters, gradients and optimizer state in the host's memory, and step there; under fsdp
    and zero3 the computing weights too, between uses."""
    exact: bool = False
    """Sum gradients so that their order does not matter: the same bits on any number of ranks."""
    init: str = AS_BUILT

    def __post_init__(self) -> None:
        if self.init not in (AS_BUILT, BY_NAME):
            raise ConfigError(f'unknown init "{self.init}"; choose from {AS_BUILT}, {BY_NAME}.')

    def strategies(self) -> tuple[str, ...]:
        """Return the strategies that can do all that is asked."""
        left_out = self.left_out()
        return tuple(strategy for strategy in _ANY if strategy not in left_out)

    def left_out(self) -> dict[str, str]:
        """Return the strategies that cannot do all that is asked, and why."""
        cannot = {
            strategy: [
                f"{name}={_shown(getattr(self, name))}"
                for name, able in _HONOURED_BY.items()
                if getattr(self, name) and strategy not in able
            ]
            for strategy in _ANY
        }
        return {name: f"it cannot do {', '.join(what)}" for name, what in cannot.items() if what}

    def require(self, strategy: str, device_type: str) -> None:
        """Refuse what this strategy cannot do.

        Raises:
            ConfigError: naming the option and the strategies that can.
        """
        for name, able in _HONOURED_BY.items():
            if getattr(self, name) and strategy not in able:
                raise ConfigError(
                    f"{name}={_shown(getattr(self, name))} cannot be done by strategy={strategy}. "
                    f"Leave it out, or pass --strategy {' or '.join(able)}."
                )
        if self.exact and self.offload:
            raise ConfigError(
                "--exact cannot be done with offload=True, whose gradients are summed elsewhere. "
                "Leave one of them out."
            )
        if self.offload and device_type == "cpu":
            raise ConfigError(
                "offload=True moves state from a GPU to the host, and this run computes on the "
                "CPU, where it is already. Leave it out."
            )


def as_patterns(value: bool | str | tuple[str, ...]) -> bool | tuple[str, ...]:
    """Return "a,b" as ("a", "b"); True and False stand."""
    if not isinstance(value, str):
        return value
    return tuple(part for text in value.split(",") if (part := text.strip()))


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
