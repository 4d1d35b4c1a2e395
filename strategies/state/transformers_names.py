"""How transformers' files name what a model of it has in memory, for `weights=`.

Some models are fused or renamed when they are loaded: the experts of a mixture are one tensor in
memory and apart in files. transformers has the rules, for each model, and applies them in
`from_pretrained`. Here its own rules and operations are used, one tensor of the model at a time, so
that `weights=` loads what that loads. Its functions for this are young: where they are not there,
files must have the model's own names, and others are refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_MODULES = ("transformers.modeling_utils", "transformers.core_model_loading")
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, kw_only=True)
class Built:
    """Tensors of the model that are made of one or several of the files."""

    sources: tuple[str, ...]
    """Names in the files, in the order in which the rule takes them."""
    build: Callable[[Callable[[str], torch.Tensor]], Mapping[str, torch.Tensor]]
    """(reads a tensor of the files) -> the model's tensors by name."""
    is_plain: bool = False
    """One tensor as it is, under another name at most."""


class TransformersNames:
    """The rules of one model. Holds nothing of the model itself."""

    def __init__(self, rules: list[Any], config: Any, base_prefix: str, ignored: list[str]) -> None:
        self._rules = rules
        self._config = config
        self._base_prefix = base_prefix
        self._ignored = [re.compile(pattern) for pattern in ignored]

    @classmethod
    def of(cls, model: nn.Module) -> TransformersNames | None:
        """Return the rules for a model; None: it is no model of transformers, or has none."""
        loaded = [sys.modules.get(name) for name in _MODULES]
        known = getattr(loaded[0], "PreTrainedModel", None)
        if known is None or not isinstance(model, known):
            return None
        try:
            from transformers.conversion_mapping import get_model_conversion_mapping
            from transformers.core_model_loading import rename_source_key  # noqa: F401

            rules = get_model_conversion_mapping(model)
        except (ImportError, AttributeError, TypeError):
            # Without rules, or with others: files must then have the names that are in memory.
            return None
        return cls(
            rules,
            model.config,
            str(model.base_model_prefix),
            list(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()),
        )

    def built_from(self, stored: Iterable[str], wanted: Collection[str]) -> list[Built]:
        """Return how the model's tensors are made of what is in the files.

        What the model does not know keeps its name in the files; what its class says is to be
        ignored in a file is left out.

        Args:
            stored: names in the files.
            wanted: names in the model.
        """
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            rename_source_key,
        )

        renamings = [rule for rule in self._rules if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in self._rules if isinstance(rule, WeightConverter)]
        by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
        there = dict.fromkeys(wanted, True)

        groups: dict[str, list[tuple[str, str]]] = {}
        plain: list[Built] = []
        for name in sorted(stored, key=_natural):
            target, pattern = rename_source_key(
                name, renamings, converters, self._base_prefix, there
            )
            if target not in there and name in there:
                target, pattern = name, None
            if pattern is not None and target in there:
                groups.setdefault(target, []).append((pattern, name))
            elif target in there:
                plain.append(_plain(name, target))
            elif not self._is_ignored(target):
                plain.append(_plain(name, name))
        fused = [
            self._fused(target, sources, by_pattern[sources[0][0]])
            for target, sources in groups.items()
        ]
        return [*plain, *fused]

    def _is_ignored(self, name: str) -> bool:
        return any(pattern.search(name) for pattern in self._ignored)

    def _fused(self, target: str, sources: list[tuple[str, str]], rule: Any) -> Built:
        """Return what one rule makes; its first tensor is `target`."""

        def build(read: Callable[[str], torch.Tensor]) -> Mapping[str, torch.Tensor]:
            own = deepcopy(rule)  # it collects what it is given
            for pattern, name in sources:
                own.add_tensor(target, name, pattern, lambda name=name: read(name))
            made = own.convert(target, config=self._config)
            return {name: v[0] if isinstance(v, list) else v for name, v in made.items()}

        return Built(sources=tuple(name for _, name in sources), build=build)


def _plain(name: str, target: str) -> Built:
    return Built(sources=(name,), build=lambda read: {target: read(name)}, is_plain=True)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Return a key by which "experts.2" comes before "experts.10"."""
    return [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in _DIGITS.split(name)]
