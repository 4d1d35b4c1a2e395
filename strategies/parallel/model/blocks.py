"""The blocks of a model: what is sharded, recomputed or compiled on its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from ...errors import ConfigError

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
"""Have no forward of their own, so nothing can be done around it."""


def find_blocks(model: nn.Module, patterns: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Return the blocks of a model by name, in the model's order; no block is inside another.

    Args:
        model: freshly built.
        patterns: names such as "transformer.h.*", where * stands for one part between dots, or
            names of classes such as "GPT2Block". None given: the outermost modules that are
            repeated: members of a list of one class, and neighbours of one class and structure.

    Raises:
        ConfigError: a pattern that matches nothing.
    """
    if not patterns:
        # A module that stands in several places is one block, under its first name.
        first = {id(block): name for name, block in reversed(list(_repeated(model, "")))}
        return {name: block for name, block in _repeated(model, "") if first[id(block)] == name}
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        matching = {n: m for n, m in model.named_modules() if n and _matches(pattern, n, m)}
        if not matching:
            there = ", ".join(_repeated_names(model)) or "none"
            raise ConfigError(
                f'no block of the model is called "{pattern}". Pass names such as "layers.*", or '
                f"names of classes; the repeated modules of this model are: {there}."
            )
        found |= matching
    order = {name: number for number, (name, _) in enumerate(model.named_modules())}
    inside = tuple(f"{name}." for name in found)
    return {n: found[n] for n in sorted(found, key=order.__getitem__) if not n.startswith(inside)}


def shared_with_outside(model: nn.Module, block: nn.Module) -> list[str]:
    """Return the names of the block's parameters that a module outside of it uses too."""
    uses = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    inside = Counter(id(p) for m in block.modules() for p in m.parameters(recurse=False))
    return [name for name, p in model.named_parameters() if inside[id(p)] not in (0, uses[id(p)])]


def _repeated(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    children = list(module.named_children())
    kinds = {name: _kind(module, child) for name, child in children}
    count = Counter(kind for kind in kinds.values() if kind is not None)
    for name, child in children:
        if count[kinds[name]] > 1:
            yield prefix + name, child
        else:
            yield from _repeated(child, f"{prefix}{name}.")


def _kind(parent: nn.Module, child: nn.Module) -> object | None:
    """Return what makes two children of one parent the same thing; None: never a block."""
    if isinstance(child, _CONTAINERS) or not any(True for _ in child.parameters()):
        return None
    if isinstance(parent, nn.ModuleList):
        return type(child)
    # Outside of a list a single layer is a part of something and not a thing of its own.
    if not any(True for _ in child.children()):
        return None
    if isinstance(parent, nn.Sequential | nn.ModuleDict) and not isinstance(child, nn.Sequential):
        return type(child)
    shapes = tuple((name, tuple(p.shape)) for name, p in child.named_parameters())
    return type(child), shapes


def _matches(pattern: str, name: str, module: nn.Module) -> bool:
    if pattern == type(module).__name__:
        return True
    wanted, parts = pattern.split("."), name.split(".")
    return len(wanted) == len(parts) and all(map(fnmatchcase, parts, wanted))


def _repeated_names(model: nn.Module) -> list[str]:
    lists = {name.rpartition(".")[0]: type(m).__name__ for name, m in _repeated(model, "")}
    return [f"{name}.* ({kind})" if name else f"* ({kind})" for name, kind in lists.items()]
