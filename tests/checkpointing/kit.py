"""What the checkpointing tests share: faulty disks, several ranks as threads, a sample state."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import torch

import checkpointing
from checkpointing import (
    JSON,
    BackgroundWriter,
    CheckpointStore,
    Files,
    Fragment,
    FrozenTensors,
    LocalCommunicator,
    OwnShard,
    SavedCheckpoint,
    Snapshot,
    TensorSpec,
    dtype_name,
    place_at,
    save_checkpoint,
    start_save,
    stripe,
)

BLOCK_BYTES = 701  # small and odd: many blocks, none aligned with a tensor
OPERATIONS = (
    "mkdir",
    "create",
    "open",
    "preallocate",
    "pwrite",
    "pread",
    "fsync",
    "close",
    "rename",
    "link",
    "fsync_dir",
    "listdir",
    "is_dir",
    "exists",
    "size",
    "unlink",
    "rmtree",
)


class WatchedFiles(Files):
    """Calls a hook before and after each operation, with its number and name."""

    def __init__(
        self,
        before: Callable[[int, str], None] = lambda number, name: None,
        after: Callable[[int, str], None] = lambda number, name: None,
    ) -> None:
        self.before = before
        self.after = after
        self.log: list[tuple[str, Any]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.log]


def _watched(name: str) -> Callable[..., Any]:
    original = getattr(Files, name)

    def method(self: WatchedFiles, *args: Any) -> Any:
        number = len(self.log)
        self.log.append((name, args[0]))
        self.before(number, name)
        result = original(self, *args)
        self.after(number, name)
        return result

    return method


for _name in OPERATIONS:
    setattr(WatchedFiles, _name, _watched(_name))


def failing_files(at: int, code: int) -> WatchedFiles:
    """Fail the operation of this number, once. A failed close has closed the descriptor."""

    def before(number: int, name: str) -> None:
        if number == at and name != "close":
            raise OSError(code, "injected")

    def after(number: int, name: str) -> None:
        if number == at and name == "close":
            raise OSError(code, "injected")

    return WatchedFiles(before, after)


class ThreadCommunicator:
    """Ranks as threads; values travel as JSON text, as they would between processes."""

    def __init__(self, rank: int, world_size: int, shared: "SharedSlots") -> None:
        self.rank = rank
        self.world_size = world_size
        self._shared = shared

    def gather(self, value: JSON) -> list[JSON] | None:
        self._shared.slots[self.rank] = json.dumps(value)
        self._shared.barrier.wait()
        values = [json.loads(slot) for slot in self._shared.slots]
        self._shared.barrier.wait()
        return values if self.rank == 0 else None

    def broadcast(self, value: JSON) -> JSON:
        if self.rank == 0:
            self._shared.slots[0] = json.dumps(value)
        self._shared.barrier.wait()
        received: JSON = json.loads(self._shared.slots[0])
        self._shared.barrier.wait()
        return received


class SharedSlots:
    def __init__(self, world_size: int) -> None:
        self.slots = ["null"] * world_size
        self.barrier = threading.Barrier(world_size, timeout=20)


def run_ranks(world_size: int, action: Callable[[ThreadCommunicator], Any]) -> list[Any]:
    """Run an action on every rank; return its result or its exception, by rank."""
    shared = SharedSlots(world_size)
    outcomes: list[Any] = [None] * world_size

    def run(rank: int) -> None:
        try:
            outcomes[rank] = action(ThreadCommunicator(rank, world_size, shared))
        except BaseException as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=run, args=(r,), daemon=True) for r in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive(), "a rank hangs"
    return outcomes


State = list[tuple[TensorSpec, torch.Tensor]]


def sample_state(seed: int = 0) -> State:
    """Odd shapes, a scalar, an empty tensor, and dtypes of 1, 2, 4 and 8 bytes."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        ("net.0.weight", "fp32"): torch.randn(7, 13, 3, generator=generator),
        ("net.0.weight", "exp_avg"): torch.randn(7, 13, 3, generator=generator),
        ("net.0.bias", "fp32"): torch.randn(5, generator=generator),
        ("scale", "fp32"): torch.randn((), generator=generator),
        ("nothing", "fp32"): torch.empty(0, 4),
        ("frozen", "param"): torch.randn(11, 9, generator=generator).bfloat16(),
        ("mask", "buffer"): torch.rand(33, generator=generator) > 0.5,
        ("count", "buffer"): torch.randint(-(2**40), 2**40, (3,), generator=generator),
        ('../we"ird/ñame@0:1\n', "fp32"): torch.randn(17, generator=generator),
    }
    return [
        (
            TensorSpec(fqn=fqn, key=key, shape=tuple(tensor.shape), dtype=dtype_name(tensor.dtype)),
            tensor,
        )
        for (fqn, key), tensor in tensors.items()
    ]


def specs_of(state: State) -> list[TensorSpec]:
    return [spec for spec, _ in state]


def fragments_of(state: State, rank: int = 0, world_size: int = 1) -> list[Fragment]:
    pieces = stripe(
        [spec.size_bytes for spec, _ in state],
        rank,
        world_size,
        itemsizes_bytes=[spec.itemsize for spec, _ in state],
    )
    return [
        Fragment(
            spec=state[index][0],
            start=start,
            end=end,
            data=state[index][1].reshape(-1)[start:end],
        )
        for index, start, end in pieces
    ]


def store_at(folder: PurePath, files: Files | None = None) -> CheckpointStore:
    return CheckpointStore(folder, files or Files(), block_bytes=BLOCK_BYTES)


def store_at_url(url: str, files: Files | None = None) -> CheckpointStore:
    place = place_at(url)
    return store_at(place.folder, files or place.files)


def save_state(
    store: CheckpointStore, step: int, state: State, communicator: Any = None
) -> SavedCheckpoint:
    communicator = communicator or LocalCommunicator()
    return save_checkpoint(
        store,
        Snapshot(
            step=step,
            specs=specs_of(state),
            fragments=fragments_of(state, communicator.rank, communicator.world_size),
            state={"position": {"epoch": 3, "sample": 12345}, "lr": 0.1},
            created_by={"relaunch": "0.1.0"},
        ),
        communicator,
    )


def frozen_state(seed: int = 0) -> State:
    """The sample state, its frozen tensor always the same, and one that takes several blocks."""
    frozen = dict(sample_state(0))[_FROZEN]
    base = torch.arange(1500, dtype=torch.float32).sin().half()
    spec = TensorSpec(fqn="base", key="param", shape=(1500,), dtype="F16")
    state = [(s, frozen if s == _FROZEN else tensor) for s, tensor in sample_state(seed)]
    return [*state, (spec, base)]


_FROZEN = TensorSpec(fqn="frozen", key="param", shape=(11, 9), dtype="BF16")


def save_frozen(
    store: CheckpointStore,
    step: int,
    state: State,
    stored: FrozenTensors,
    communicator: Any = None,
    writer: BackgroundWriter | None = None,
    own_shard: OwnShard | None = None,
) -> SavedCheckpoint:
    """Save with the frozen tensors in objects, in the background where there is a writer."""
    talk: Any = communicator or LocalCommunicator()
    fragments = fragments_of(state, talk.rank, talk.world_size)
    frozen = [f for f in fragments if f.spec.key == "param"]
    part = stored.divide(frozen, talk.broadcast(talk.gather(stored.look(frozen))))
    snapshot = Snapshot(
        step=step,
        specs=specs_of(state),
        fragments=[*(f for f in fragments if f.spec.key != "param"), *part.changing],
        state={},
        created_by={},
        frozen=part,
        own_shard=own_shard,
    )
    if writer is None:
        return save_checkpoint(store, snapshot, talk)
    save = start_save(store, snapshot, talk, writer)
    save.commit()
    return save.finish()


def bits(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor, in which NaN equals itself."""
    return tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def assert_holds(store: CheckpointStore, step: int, state: State) -> None:
    """Every tensor of a step is, bit for bit, that of the state."""
    with store.open(step) as reader:
        assert reader.manifest.specs() == specs_of(state)
        for spec, tensor in state:
            loaded = reader.read(spec.fqn, spec.key, 0, spec.numel)
            assert loaded.dtype == tensor.dtype
            assert bits(loaded) == bits(tensor), spec.name


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def run_python(*words: object, timeout_s: float) -> "subprocess.CompletedProcess[str]":
    """Run Python with the packages and the files beside this one in its path."""
    path = f"{Path(checkpointing.__file__).parents[1]}:{Path(__file__).parent}"
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
