"""Which tensors are exported, in what dtype, and how they are spread over files. Pure."""

import json
from collections.abc import Iterable, Sequence

from ..format.shard_header import Entry
from ..format.tensor_spec import ITEMSIZES_BYTES, TensorSpec

FLOATS = ("F16", "BF16", "F32", "F64")
WEIGHT_KEYS = ("fp32", "param", "buffer")
INDEX_NAME = "model.safetensors.index.json"


def choose_tensors(
    specs: Iterable[TensorSpec], keys: Sequence[str], *, preferred: str | None = None
) -> list[TensorSpec]:
    """Return the tensors of the given keys, in the given order.

    Where an fqn has a tensor of the key `preferred`, that one alone is chosen.

    Raises:
        ValueError: If no tensor has one of the keys, or two of the chosen ones share an fqn.
    """
    specs = list(specs)
    replaced = {spec.fqn for spec in specs if spec.key == preferred}
    if preferred is not None and not replaced:
        raise ValueError(f"no tensor with the key {preferred} is there.")
    chosen: dict[str, TensorSpec] = {}
    for spec in specs:
        is_preferred = spec.key == preferred
        if not is_preferred and (spec.key not in keys or spec.fqn in replaced):
            continue
        if spec.fqn in chosen:
            raise ValueError(
                f"{spec.fqn} has both {chosen[spec.fqn].key} and {spec.key}, and a file holds one "
                f"tensor of a name. Pass fewer keys than {tuple(keys)}."
            )
        chosen[spec.fqn] = spec
    if not chosen:
        stored = sorted({spec.key for spec in specs})
        raise ValueError(f"no tensor with keys={tuple(keys)} is there; there are {stored}.")
    return list(chosen.values())


def entry_of(spec: TensorSpec, dtype: str | None) -> Entry:
    """Return a tensor as it stands in the exported file.

    Args:
        spec: The tensor.
        dtype: What floating-point tensors become, one of FLOATS; None leaves every tensor as it
            is stored.

    Raises:
        ValueError: For another dtype.
    """
    if dtype is not None and dtype not in FLOATS:
        raise ValueError(f"dtype={dtype!r} is not one to export in; choose from {FLOATS}.")
    name = dtype if dtype is not None and spec.dtype in FLOATS else spec.dtype
    return Entry(
        name=spec.fqn,
        dtype=name,
        shape=spec.shape,
        size_bytes=spec.numel * ITEMSIZES_BYTES[name],
    )


def split_files(
    specs: Sequence[TensorSpec], dtype: str | None, max_bytes: int
) -> dict[str, list[TensorSpec]]:
    """Spread tensors over files as Hugging Face does: in order, a new file when one is full.

    Args:
        specs: In the model's order.
        dtype: See `entry_of`.
        max_bytes: The most tensor bytes in a file; a larger tensor has a file for itself.

    Returns:
        File name to tensors: "model.safetensors" alone, or "model-00001-of-00003.safetensors", ...

    Raises:
        ValueError: If max_bytes is below 1.
    """
    if max_bytes < 1:
        raise ValueError(f"max_bytes={max_bytes} is not positive.")
    groups: list[list[TensorSpec]] = []
    room_bytes = 0
    for spec in specs:
        size_bytes = entry_of(spec, dtype).size_bytes
        if not groups or size_bytes > room_bytes:
            groups.append([])
            room_bytes = max_bytes
        groups[-1].append(spec)
        room_bytes -= size_bytes
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {
        f"model-{number:05d}-of-{len(groups):05d}.safetensors": group
        for number, group in enumerate(groups, start=1)
    }


def index_text(files: dict[str, list[TensorSpec]], dtype: str | None) -> bytes:
    """Return model.safetensors.index.json: which file holds which tensor."""
    index = {
        "metadata": {
            "total_size": sum(entry_of(s, dtype).size_bytes for g in files.values() for s in g)
        },
        "weight_map": {spec.fqn: name for name, group in files.items() for spec in group},
    }
    return json.dumps(index, indent=2, sort_keys=True).encode("ascii") + b"\n"
