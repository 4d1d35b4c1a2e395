"""Building a model: the ordinary way, or without memory, to be filled by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ...data.seeding import seed_streams
from ...errors import ConfigError
from ..build_options import AS_BUILT, BY_NAME
from ..strategy import Blueprint
from .deferred_init import AsIfOnCpu, Recording
from .factory_checks import made_model
from .plain_tensors import Plain, forget_cached, plain_tensors


@dataclass(frozen=True)
class Deferred:
    """A model on the meta device, and the values that its tensors are to have."""

    model: nn.Module
    _recording: Recording
    _tensors: dict[str, torch.Tensor]
    """Parameters and buffers as the factory left them, each once; some may be real."""
    _aliases: dict[str, str]
    _plain: tuple[Plain, ...]
    """What the model keeps beside them."""

    def value(self, name: str) -> torch.Tensor:
        """Return the whole value of a parameter or buffer, on the CPU; drawn now."""
        tensor = self._tensors[name]
        if tensor.device.type != "meta":
            return tensor.detach()
        return self._recording.value(tensor.detach())

    def materialise(self, device: torch.device) -> nn.Module:
        """Fill the model whole, one tensor after the other; return it."""
        for name in self._tensors:
            self.fill(name, device)
        self._fill_plain()
        return self.model

    def fill(self, name: str, device: torch.device) -> None:
        """Put a whole parameter or buffer, with its value, into the model."""
        self.put(name, _like(self._tensors[name], self.value(name).to(device)))

    def fill_buffers(self, device: torch.device) -> None:
        """Fill the buffers whole, whatever has become of the parameters."""
        for name, tensor in self._tensors.items():
            if not isinstance(tensor, nn.Parameter):
                self.put(name, self.value(name).to(device))
        self._fill_plain()

    def _fill_plain(self) -> None:
        """Fill what modules do not know, on the CPU, where it stays when a model is moved."""
        live = {id(tensor): _get(self.model, name) for name, tensor in self._tensors.items()}
        filled = {key: tensor for key, tensor in live.items() if tensor.device.type == "cpu"}
        for plain in self._plain:
            assert plain.put is not None
            if id(plain.tensor) not in filled:
                value = self._recording.value(plain.tensor.detach())
                filled[id(plain.tensor)] = _like(plain.tensor, value)
            plain.put(filled[id(plain.tensor)])

    def tie(self) -> None:
        """Give every alias the tensor of its first name again."""
        for alias, name in self._aliases.items():
            _set(self.model, alias, _get(self.model, name))

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Put a tensor into the model under its name and under its aliases."""
        _set(self.model, name, tensor)
        for alias, first in self._aliases.items():
            if first == name:
                _set(self.model, alias, tensor)


def build_model(blueprint: Blueprint) -> nn.Module:
    """Build the model whole on this rank's device, equal on every rank by the run's seed."""
    if blueprint.options.init == BY_NAME:
        return build_deferred(blueprint).materialise(blueprint.ranks.device)
    seed_streams(blueprint.seed)
    model = made_model(blueprint.model).to(blueprint.ranks.device)
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and _overlaps(buffer):
                module._buffers[name] = buffer.contiguous()
    return model


def _overlaps(tensor: torch.Tensor) -> bool:
    """Return whether elements share memory, as after `expand`: it cannot be loaded into."""
    if tensor.layout != torch.strided:
        return False
    return any(s == 0 and n > 1 for s, n in zip(tensor.stride(), tensor.shape, strict=True))


def lay_out_in_rows(model: nn.Module) -> None:
    """Give each parameter its elements in their order: what cuts parameters takes no other.

    One in channels_last, or a transposed one, keeps its values.
    """
    for parameter in model.parameters():
        if parameter.layout == torch.strided and not parameter.is_contiguous():
            parameter.data = parameter.data.contiguous()


def build_deferred(blueprint: Blueprint) -> Deferred:
    """Build the model without memory.

    Raises:
        ConfigError: its factory needs values that are not there yet.
    """
    recording = Recording(blueprint.seed)
    model = _record(blueprint, recording)
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    first_name: dict[int, str] = {}
    for name, tensor in _named_tensors(model):
        if id(tensor) in first_name:
            aliases[name] = first_name[id(tensor)]
        else:
            first_name[id(tensor)] = name
            tensors[name] = tensor
    on_meta = [(name, tensor.detach()) for name, tensor in tensors.items() if tensor.is_meta]
    plain = tuple(plain_tensors(model))
    _refuse_kept_apart(plain, tensors)
    recording.name_seeds(on_meta)
    recording.name_seeds((one.name, one.tensor.detach()) for one in plain)
    if unfilled := [name for name, tensor in on_meta if not recording.is_filled(tensor)]:
        raise ConfigError(
            f'init="{BY_NAME}": nothing fills {", ".join(unfilled[:5])} when the model is built. '
            f'Initialise them in the constructor, or use init="{AS_BUILT}".'
        )
    deferred = Deferred(model, recording, tensors, aliases, plain)
    for name, tensor in tensors.items():
        if not tensor.is_meta:
            deferred.put(name, _like(tensor, tensor.detach().to("meta")))
    return deferred


def _refuse_kept_apart(plain: Iterable[Plain], tensors: Mapping[str, torch.Tensor]) -> None:
    parameters = {id(t): name for name, t in tensors.items() if isinstance(t, nn.Parameter)}
    for one in plain:
        if id(one.tensor) in parameters:
            raise ConfigError(
                f'init="{BY_NAME}": {one.name} holds the parameter {parameters[id(one.tensor)]} '
                "outside of the modules, where it would stay without memory. Look it up in its "
                f'module when it is needed, or use init="{AS_BUILT}".'
            )
        if one.put is None:
            raise ConfigError(
                f'init="{BY_NAME}": {one.name} holds a tensor of shape {tuple(one.tensor.shape)} '
                "where it cannot be filled. Keep it as a buffer (register_buffer, with "
                f'persistent=False if it is not to be saved), or use init="{AS_BUILT}".'
            )


def build_on_meta(blueprint: Blueprint) -> nn.Module:
    """Build the model without memory and without a way to fill it.

    Raises:
        ConfigError: its factory needs values that are not there.
    """
    return _record(blueprint, Recording(blueprint.seed)).to("meta")


def _record(blueprint: Blueprint, recording: Recording) -> nn.Module:
    seed_streams(blueprint.seed)
    try:
        with AsIfOnCpu(), recording:
            model = made_model(blueprint.model)
        forget_cached()
        return model
    except (NotImplementedError, RuntimeError, TypeError) as error:
        if "meta" not in str(error).lower():
            raise
        raise ConfigError(
            f'init="{BY_NAME}" builds the model without memory first, and its factory needs values '
            f'there ({str(error).splitlines()[0]}). Use init="{AS_BUILT}".'
        ) from error


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _like(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return the value as a parameter where `tensor` is one."""
    if not isinstance(tensor, nn.Parameter):
        return value
    made = nn.Parameter(value, requires_grad=tensor.requires_grad)
    made.__dict__.update(tensor.__dict__)
    return made


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _get(model: nn.Module, name: str) -> torch.Tensor:
    module, leaf = _owner(model, name)
    found: torch.Tensor = getattr(module, leaf)
    return found


def _set(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    module, leaf = _owner(model, name)
    if leaf in module._parameters:
        assert isinstance(tensor, nn.Parameter)
        module._parameters[leaf] = tensor
    else:
        module._buffers[leaf] = tensor
