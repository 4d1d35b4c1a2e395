"""What the tests of `relaunch checkpoint` share: real checkpoints."""

from pathlib import Path

import torch

from checkpointing import (
    CheckpointStore,
    Fragment,
    LocalCommunicator,
    Snapshot,
    TensorSpec,
    dtype_name,
    place_at,
    save_checkpoint,
)

BEST_STEP = 20


def save(
    folder: Path, step: int, tensors=None, *, best_step=BEST_STEP, stored=None, **state
) -> Path:
    """Save a step; its "param" tensors in objects, where it is given what the store has of them."""
    tensors = {
        "fp32/fc.weight": torch.arange(12.0).reshape(3, 4),
        "exp_avg/fc.weight": torch.full((3, 4), float(step)),
        "buffer/scale": torch.tensor(2, dtype=torch.int64),
        **(tensors or {}),
    }
    fragments = []
    for name, tensor in tensors.items():
        key, _, fqn = name.partition("/")
        shape, dtype = tuple(tensor.shape), dtype_name(tensor.dtype)
        spec = TensorSpec(fqn=fqn, key=key, shape=shape, dtype=dtype)
        flat = tensor.reshape(-1)
        fragments.append(Fragment(spec=spec, start=0, end=len(flat), data=flat))
    store = CheckpointStore(folder)
    specs, part = [fragment.spec for fragment in fragments], None
    if stored is not None:
        frozen = [f for f in fragments if f.spec.key == "param"]
        part = stored.divide(frozen, [stored.look(frozen)])
        fragments = [f for f in fragments if f.spec.key != "param"]
    saved = save_checkpoint(
        store,
        Snapshot(
            step=step,
            specs=specs,
            fragments=fragments,
            frozen=part,
            state={
                "step": step,
                "data": {"epoch": step // 10},
                "early_stopping": {"best": 0.25, "best_step": best_step},
                "ending": None,
                "aliases": {"head.weight": "fc.weight"},
                **state,
            },
            created_by={"strategy": "zero2", "world_size": 3, "precision": "bf16"},
        ),
        LocalCommunicator(),
    )
    return saved.path


def damage(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


def steps(folder: Path) -> list[int]:
    return CheckpointStore(folder).steps()


def upload(folder: Path, url: str) -> None:
    """Put the same checkpoints at a URL, as a run would."""
    place = place_at(url)
    for name in ("checkpoints", "best"):
        for step in steps(folder / name):
            with CheckpointStore(folder / name).open(step) as reader:
                manifest = reader.manifest
                fragments = [
                    Fragment(
                        spec=s, start=0, end=s.numel, data=reader.read(s.fqn, s.key, 0, s.numel)
                    )
                    for s in manifest.specs()
                ]
            save_checkpoint(
                CheckpointStore(place.folder / name, place.files),
                Snapshot(
                    step=step,
                    specs=manifest.specs(),
                    fragments=fragments,
                    state=manifest.state,
                    created_by=manifest.created_by,
                ),
                LocalCommunicator(),
            )
