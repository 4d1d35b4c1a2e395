"""DeepSpeed's own checkpoints, and its universal ones.

Native: a folder with `mp_rank_00_model_states.pt` (or one a rank under ZeRO-3) and, for each rank,
`*zero_pp_rank_<r>_mp_rank_00_optim_states.pt` with that rank's part of flat groups. Which
parameters lie in a group, in which order, `param_shapes` says. Universal: `zero/<name>/<key>.pt`.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from ..errors import DamagedCheckpointError
from ..format.tensor_spec import TensorSpec
from ..storage.local_files import Files
from ..storage.small_files import read_whole
from .plain_pickle import Allowed, Record
from .source import WEIGHT, Foreign, Source
from .torch_file import TENSOR_NAMES, TensorRef, TorchFile, dimensions, plain_set

_LATEST = "latest"
_UNIVERSAL = "zero"
_MODEL = re.compile(r"(zero_pp_rank_(\d+)_)?mp_rank_(\d+)_model_states\.pt")
_OPTIMIZER = re.compile(r"(bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
_NAMES: Allowed = {
    **TENSOR_NAMES,
    "argparse.Namespace": None,
    "deepspeed.runtime.fp16.loss_scaler.LossScaler": None,
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler": None,
    "deepspeed.runtime.zero.config.ZeroStageEnum": None,
    "deepspeed.utils.tensor_fragment.fragment_address": None,
    "builtins.set": plain_set,
}


def is_deepspeed(folder: Path, files: Files) -> bool:
    """Return whether a folder is DeepSpeed's: a step, or the one above with `latest`."""
    names = files.listdir(folder)
    return _LATEST in names or any(_MODEL.fullmatch(name) for name in names)


def open_deepspeed(folder: Path, files: Files, *, prefix: str | None = None) -> Source:
    """Understand a DeepSpeed checkpoint of ZeRO 1, 2 or 3, or a universal one.

    Args:
        folder: Of one step, or the one above it, whose `latest` names a step.
        files: How to reach the disk.
        prefix: What stands before the model's own names, such as "module."; None: nothing.

    Raises:
        DamagedCheckpointError: If a file is damaged or missing, or wants to run code.
        ValueError: For tensor parallelism, or a layout that is not one of these.
    """
    folder = _step_folder(folder, files)
    with ExitStack() as stack:
        opened = _Opened(folder, files, stack)
        is_universal = files.is_dir(folder / _UNIVERSAL)
        try:
            tensors, scalars = _universal(opened) if is_universal else _native(opened)
            weights = _other_weights(opened, {fqn for fqn, _ in tensors})
        except (AttributeError, KeyError, TypeError, IndexError) as error:
            raise DamagedCheckpointError(folder, f"is not DeepSpeed's: {error!r}") from error
        ignored = [] if prefix is None else [n for n, _ in tensors if not n.startswith(prefix)]
        found = {**weights, **tensors}
        kept = prefix or ""
        return Source(
            kind="DeepSpeed universal" if is_universal else "DeepSpeed",
            tensors=tuple(
                Foreign(
                    spec=TensorSpec(fqn=fqn.removeprefix(kept), key=key, shape=shape, dtype=dtype),
                    read=read,
                )
                for (fqn, key), (shape, dtype, read) in found.items()
                if fqn.startswith(kept)
            ),
            scalars={fqn.removeprefix(kept): values for fqn, values in scalars.items()},
            ignored=tuple(sorted(set(ignored))),
            opened=stack.pop_all(),
        )


_Found = dict[tuple[str, str], tuple[tuple[int, ...], str, Callable[[], torch.Tensor]]]
"""(fqn, key) to shape, dtype and how to read it."""
_Scalars = dict[str, dict[str, float | int]]


class _Opened:
    """The files of one step, each parsed once."""

    def __init__(self, folder: Path, files: Files, stack: ExitStack) -> None:
        self.folder = folder
        self.files = files
        self._stack = stack

    def open(self, path: Path) -> TorchFile:
        file = TorchFile(path, self.files, allowed=_NAMES)
        self._stack.callback(file.close)
        return file

    def matching(self, pattern: re.Pattern[str]) -> list[TorchFile]:
        """Open the files of a kind in the order of their ranks.

        Raises:
            ValueError: Some were written by tensor-parallel ranks.
        """
        found = []
        for name in self.files.listdir(self.folder):
            match = pattern.fullmatch(name)
            if match and int(match[3]):
                raise ValueError(f"{name} is of tensor parallelism, which cannot be imported")
            if match:
                found.append((int(match[2] or 0), name))
        ranks = [rank for rank, _ in sorted(found)]
        if ranks != list(range(len(ranks))):
            missing = next(rank for rank in range(len(ranks) + 1) if rank not in ranks)
            raise DamagedCheckpointError(self.folder, f"has no file of rank {missing}")
        return [self.open(self.folder / name) for _, name in sorted(found)]


def _step_folder(folder: Path, files: Files) -> Path:
    if _LATEST not in files.listdir(folder):
        return folder
    tag = read_whole(folder / _LATEST, files).decode("utf-8", "replace").strip()
    if not tag or "/" in tag or tag in (".", ".."):
        raise DamagedCheckpointError(folder / _LATEST, f"names {tag!r}, which is no folder of it")
    if not files.is_dir(folder / tag):
        raise DamagedCheckpointError(folder / _LATEST, f"names {tag}, which is not there")
    return folder / tag


def _native(opened: _Opened) -> tuple[_Found, _Scalars]:
    models, parts = opened.matching(_MODEL), opened.matching(_OPTIMIZER)
    if not models:
        raise DamagedCheckpointError(opened.folder, "has no *_model_states.pt")
    if not parts:
        return {}, {}
    states = [part.data["optimizer_state_dict"] for part in parts]
    stage = _number(states[0]["zero_stage"])
    count = _count(states[0]["partition_count"])
    if count != len(parts):
        raise DamagedCheckpointError(
            opened.folder,
            f"has the optimizer's state of {len(parts)} ranks out of {count}: its save was cut "
            "off, or files were lost. Give the folder of an older step",
        )
    groups = _groups(models[0].data["param_shapes"])
    layout = _ZERO_3 if stage == 3 else _ZERO_1_2
    return layout(parts, states, groups)


def _groups(described: Any) -> list[dict[str, tuple[int, ...]]]:
    """Return the shapes of the parameters in each group, by name.

    Raises:
        ValueError: They are something else, or a parameter is in two groups.
    """
    groups: list[dict[str, tuple[int, ...]]] = []
    known: set[str] = set()
    for group in described:
        # A stream may hold one group a thousand times: it ends at the second.
        shapes = {name: dimensions(shape) for name, shape in group.items()}
        if not all(isinstance(name, str) for name in shapes) or known & shapes.keys():
            raise ValueError("param_shapes does not name each parameter once")
        known |= shapes.keys()
        groups.append(shapes)
    return groups


def _count(value: Any) -> int:
    """Return the number of ranks: a number, or a list with one for each group."""
    counts = {_number(one) for one in (value if isinstance(value, list) else [value])}
    if len(counts) != 1:
        raise ValueError(
            f"groups of different numbers of ranks ({sorted(counts)}) cannot be imported"
        )
    return counts.pop()


def _number(value: Any) -> int:
    found = value.arguments[0] if isinstance(value, Record) else value
    if not isinstance(found, int):
        raise TypeError(f"a {type(found).__name__} where a number should be")
    return int(found)


def _zero_1_2(
    parts: list[TorchFile], states: list[Any], groups: list[dict[str, tuple[int, ...]]]
) -> tuple[_Found, _Scalars]:
    """Each group is one flat line, cut evenly among the ranks; padding at its end."""
    found: _Found = {}
    scalars: _Scalars = {}
    for number, group in enumerate(groups):
        flats = [state["single_partition_of_fp32_groups"][number] for state in states]
        bases = [_base_state(state, number) for state in states]
        numel = sum(math.prod(shape) for shape in group.values())
        length = sum(flat.numel for flat in flats)
        # Two elements a rank is the alignment of the whole group; more would be padding inside.
        if not numel <= length <= numel + 2 * len(parts) + len(parts):
            raise ValueError(
                f"parameter group {number} has {length} elements for {numel} of its parameters: "
                "padded parameters cannot be imported"
            )
        sources = _sources(flats, bases)
        offset = 0
        for fqn, shape in group.items():
            end = offset + math.prod(shape)
            for key, refs in sources.items():
                pieces = _line_pieces(refs, offset, end)
                found[fqn, key] = (shape, refs[0].dtype, _joined(parts, refs, pieces))
            scalars[fqn] = _scalars_of(parts[0], bases[0])
            offset = end
    return found, scalars


def _zero_3(
    parts: list[TorchFile], states: list[Any], groups: list[dict[str, tuple[int, ...]]]
) -> tuple[_Found, _Scalars]:
    """Each parameter is cut evenly among the ranks, padded; a rank's parts lie in a line."""
    found: _Found = {}
    scalars: _Scalars = {}
    world = len(parts)
    for number, group in enumerate(groups):
        flats = [state["fp32_flat_groups"][number] for state in states]
        bases = [_base_state(state["optimizer_state_dict"], number) for state in states]
        held = sum(-(-math.prod(shape) // world) for shape in group.values())
        if any(flat.numel < held for flat in flats):
            raise ValueError(f"parameter group {number} is smaller than its parameters")
        sources = _sources(flats, bases)
        offset = 0
        for fqn, shape in group.items():
            numel = math.prod(shape)
            share = -(-numel // world)
            pieces = [
                (rank, offset, offset + max(0, min(share, numel - rank * share)))
                for rank in range(world)
            ]
            for key, refs in sources.items():
                found[fqn, key] = (shape, refs[0].dtype, _joined(parts, refs, pieces))
            scalars[fqn] = _scalars_of(parts[0], bases[0])
            offset += share
    return found, scalars


_ZERO_1_2, _ZERO_3 = _zero_1_2, _zero_3


def _sources(flats: list[Any], bases: list[Mapping[str, Any]]) -> dict[str, list[TensorRef]]:
    """Return every rank's masters, and every rank's state that is cut as they are, by key."""
    return {WEIGHT: flats} | {
        key: [base[key] for base in bases]
        for key, value in bases[0].items()
        if isinstance(value, TensorRef) and value.shape != ()
    }


def _base_state(state: Any, number: int) -> Mapping[str, Any]:
    """Return the wrapped optimizer's state of one flat group."""
    base = state.get("base_optimizer_state", state)
    held = base["state"]
    found: Mapping[str, Any] = held.get(number, {})
    return found


def _scalars_of(part: TorchFile, base: Mapping[str, Any]) -> dict[str, float | int]:
    scalars: dict[str, float | int] = {}
    for key, value in base.items():
        if isinstance(value, TensorRef) and value.shape == ():
            scalars[key] = part.read(value).item()
        elif isinstance(value, int | float) and not isinstance(value, bool):
            scalars[key] = value
    return scalars


def _line_pieces(refs: Sequence[TensorRef], start: int, end: int) -> list[tuple[int, int, int]]:
    """Cut [start, end) of a line that the ranks hold end to end: (rank, first, last) in each."""
    pieces = []
    for rank, begin in enumerate(itertools.accumulate((ref.numel for ref in refs), initial=0)):
        if rank == len(refs):
            break
        low, high = max(start, begin), min(end, begin + refs[rank].numel)
        if low < high:
            pieces.append((rank, low - begin, high - begin))
    return pieces


def _joined(
    parts: Sequence[TorchFile], refs: Sequence[TensorRef], pieces: Sequence[tuple[int, int, int]]
) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        held = [parts[rank].read(_within(refs[rank], low, high)) for rank, low, high in pieces]
        return torch.cat(held) if held else torch.empty(0, dtype=torch.float32)

    return read


def _within(ref: TensorRef, low: int, high: int) -> TensorRef:
    """Return a part of a flat tensor, so that no more than its storage is held at once."""
    return TensorRef(storage=ref.storage, offset=ref.offset + low, shape=(high - low,), stride=(1,))


def _universal(opened: _Opened) -> tuple[_Found, _Scalars]:
    found: _Found = {}
    scalars: _Scalars = {}
    folder = opened.folder / _UNIVERSAL
    # Of ZeRO-3 the tensors are flat; their shapes are in the model's own file.
    models = opened.matching(_MODEL)
    groups = _groups(models[0].data.get("param_shapes", [])) if models else []
    shapes = {name: shape for group in groups for name, shape in group.items()}
    for fqn in opened.files.listdir(folder):
        if not opened.files.is_dir(folder / fqn):
            continue
        for name in opened.files.listdir(folder / fqn):
            key = name.removesuffix(".pt")
            file = opened.open(folder / fqn / name)
            value = file.data.get("param") if isinstance(file.data, dict) else file.data
            if isinstance(value, TensorRef) and value.shape:
                neutral = WEIGHT if key == "fp32" else key
                shape = shapes.get(fqn, value.shape)
                if math.prod(shape) != value.numel:
                    raise DamagedCheckpointError(file.path, f"is {value.shape}, and not {shape}")
                found[fqn, neutral] = (shape, value.dtype, _whole(file, value))
            elif isinstance(value, TensorRef):
                scalars.setdefault(fqn, {})[key] = file.read(value).item()
            elif isinstance(value, int | float):
                scalars.setdefault(fqn, {})[key] = value
            else:
                raise DamagedCheckpointError(file.path, "holds no tensor")
    return found, scalars


def _other_weights(opened: _Opened, fqns: set[str]) -> _Found:
    """Return what only the model's own file holds: frozen parameters and buffers."""
    models = opened.matching(_MODEL)
    if not models or not isinstance(models[0].data, dict):
        return {}
    module = models[0].data.get("module") or {}
    frozen = models[0].data.get("frozen_param_shapes") or {}
    partitioned = [name for name in frozen if len(models) > 1]
    if partitioned:
        raise ValueError(
            f"{partitioned[0]} is frozen and cut among the ranks of ZeRO-3: convert the "
            "checkpoint to a universal one first"
        )
    return {
        (name, WEIGHT): (value.shape, value.dtype, _whole(models[0], value))
        for name, value in module.items()
        if isinstance(value, TensorRef) and name not in fqns and value.numel
    }


def _whole(file: TorchFile, ref: TensorRef) -> Callable[[], torch.Tensor]:
    return lambda: file.read(ref)
