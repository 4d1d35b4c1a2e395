"""A PEFT model's adapter as a folder that `PeftModel.from_pretrained` reads.

peft itself says which tensors belong to the adapter and what they are called in files. It is asked
when the model has just been built: later a strategy wraps and shards it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from checkpointing import CheckpointReader, export_safetensors

FILE_NAME = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What is exported of a PEFT model."""

    config: Any
    """A `peft.PeftConfig`."""
    auto_mapping: Mapping[str, str] | None
    """Which class the base is of, where the config does not tell what task it is for."""
    names: Mapping[str, str]
    """How each tensor of the adapter is called in its file, by its name in the model."""

    def write(self, reader: CheckpointReader, folder: Path, **options: Any) -> Path:
        """Write the adapter's weights and its config. On the coordinator.

        Args:
            reader: the checkpoint.
            folder: where; made if it is missing.
            options: of `export_safetensors`.

        Raises:
            CheckpointError: the checkpoint is damaged, or the disk refuses.
            OSError: the disk refuses.
        """
        path = folder / FILE_NAME
        export_safetensors(reader, path, names=self.names, **options)
        self.config.save_pretrained(str(folder), auto_mapping_dict=self.auto_mapping)
        return path


def adapter_of(model: nn.Module) -> Adapter | str | None:
    """Return what is exported of a freshly built model.

    Returns:
        None: it is no PEFT model. A text: why its adapter alone would not be all that is trained.
    """
    peft = sys.modules.get("peft")  # who has made such a model has imported it
    if peft is None or not isinstance(model, peft.PeftModel):
        return None
    active = model.active_adapter
    own = model.state_dict(keep_vars=True)
    name_of = {id(tensor): name for name, tensor in reversed(own.items())}
    in_file = peft.get_peft_model_state_dict(
        model, state_dict=own, adapter_name=active, save_embedding_layers=False
    )
    names = {name_of[id(tensor)]: name for name, tensor in in_file.items() if id(tensor) in name_of}
    made = sorted(name for name, tensor in in_file.items() if id(tensor) not in name_of)
    if made:
        return f"peft computes {made[0]} when it saves this kind of adapter"
    outside = [n for n, p in model.named_parameters() if p.requires_grad and n not in names]
    if outside:
        return (
            f"{len(outside)} trained parameters ({outside[0]}) do not belong to its adapter "
            f"{active}; name them in modules_to_save"
        )
    config = copy.deepcopy(model.peft_config[active])
    config.inference_mode = True
    base = model.get_base_model()
    mapping = {"base_model_class": type(base).__name__, "parent_library": type(base).__module__}
    return Adapter(config=config, auto_mapping=None if config.task_type else mapping, names=names)
