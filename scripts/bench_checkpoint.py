"""What a checkpoint costs: relaunch beside a plain write, torch DCP and torch.save, interleaved.

Two processes hold a sharded state each. Every round takes each method once, so that whatever else
the machine does hits all of them; the table has medians and the range of the middle half.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

WORLD = 2
BLOCK_BYTES = 16 * 1024 * 1024
STEP_S = 0.03
TIMEOUT_S = 3600.0
COLUMNS = {
    "stall (s)": "stall_s",
    "lost (s)": "lost_s",
    "save (s)": "save_s",
    "load (s)": "load_s",
    "extra memory": "extra_memory",
    "bytes read": "read_share",
}


@dataclass(frozen=True, kw_only=True)
class Saved:
    """How one save went, in seconds."""

    stall_s: float
    """The training stood still."""
    lost_s: float
    """That, and by how much the steps were slower until all was durable."""
    save_s: float
    """Until all was durable."""


class Bench:
    """One rank: its state, its steps, and one save and load by each method."""

    def __init__(self, folder: Path, mib: int) -> None:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        dist.init_process_group("gloo")
        self.rank = dist.get_rank()
        self.folder = folder
        self.dist, self.torch = dist, torch
        self.tensors = make_tensors(torch, mib, seed=self.rank)
        self.local_bytes = sum(t.numel() * 4 for t in self.tensors.values())
        self.buffers = {name: torch.zeros_like(t) for name, t in self.tensors.items()}
        self.matrix = torch.randn(700, 700)
        self.step_s = statistics.median(self.step() for _ in range(30))
        self.methods: dict[str, Callable[[Path], Saved]] = {
            "relaunch, in the background": self.save_in_background,
            "relaunch, synchronous": self.save_synchronously,
            "torch DCP, synchronous": self.save_dcp,
            "torch DCP, async": lambda path: self.save_dcp_async(path, reuse=False),
            "torch DCP, async, stager kept": lambda path: self.save_dcp_async(path, reuse=True),
            "torch.save and sync": self.save_torch,
            "plain write and sync": self.save_plain,
        }
        self.loads: dict[str, Callable[[Path], float]] = {
            "relaunch, in the background": self.load_relaunch,
            "torch DCP, synchronous": self.load_dcp,
            "torch.save and sync": self.load_torch,
        }
        from checkpointing import BackgroundWriter

        self.writer = BackgroundWriter()
        self.stager = None

    def step(self) -> float:
        """Compute a fixed amount; return the seconds it took."""
        began = time.perf_counter()
        end = began
        for _ in range(4):
            self.matrix @ self.matrix
            end = time.perf_counter()
        return end - began

    def copy_s(self) -> float:
        """Return the least of five warm copies of all local bytes."""
        taken = []
        for _ in range(5):
            self.dist.barrier()
            began = time.perf_counter()
            for name, tensor in self.tensors.items():
                self.buffers[name].copy_(tensor)
            taken.append(time.perf_counter() - began)
        return min(taken)

    def until(self, is_done: Callable[[], bool]) -> float:
        """Train until something is done; return by how much the steps were slower."""
        slower_s = 0.0
        while not is_done():
            slower_s += self.step() - self.step_s
        return max(0.0, slower_s)

    def specs(self) -> list[object]:
        from checkpointing import TensorSpec

        found: list[object] = []
        for rank in range(WORLD):
            found += [
                TensorSpec(fqn=f"r{rank}.{n}", key="fp32", shape=tuple(t.shape), dtype="F32")
                for n, t in self.tensors.items()
            ]
        return found

    def snapshot(self) -> object:
        from checkpointing import Fragment, Snapshot

        specs = self.specs()
        mine = specs[self.rank * len(self.tensors) :][: len(self.tensors)]
        return Snapshot(
            step=1,
            specs=specs,
            fragments=[
                Fragment(spec=spec, start=0, end=spec.numel, data=tensor.view(-1))
                for spec, tensor in zip(mine, self.tensors.values(), strict=True)
            ],
            state={},
            created_by={},
        )

    def save_in_background(self, path: Path) -> Saved:
        from checkpointing import CheckpointStore, start_save

        began = time.perf_counter()
        save = start_save(CheckpointStore(path), self.snapshot(), self.talk(), self.writer)
        stall_s = time.perf_counter() - began
        slower_s = self.until(save.is_settled)
        self.dist.barrier()
        resumed = time.perf_counter()
        save.finish()
        stall_s += time.perf_counter() - resumed
        return Saved(stall_s=stall_s, lost_s=stall_s + slower_s, save_s=time.perf_counter() - began)

    def save_synchronously(self, path: Path) -> Saved:
        from checkpointing import CheckpointStore, save_checkpoint

        return self.blocking(
            lambda: save_checkpoint(CheckpointStore(path), self.snapshot(), self.talk())
        )

    def save_dcp(self, path: Path) -> Saved:
        import torch.distributed.checkpoint as dcp

        return self.blocking(lambda: dcp.save(self.named(), checkpoint_id=path))

    def save_dcp_async(self, path: Path, *, reuse: bool) -> Saved:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        if reuse and self.stager is None:
            self.stager = DefaultStager(
                StagingOptions(
                    use_pinned_memory=False,
                    use_shared_memory=False,
                    use_async_staging=False,
                    use_non_blocking_copy=False,
                )
            )
        began = time.perf_counter()
        options = {"async_stager": self.stager} if reuse else {}
        future = dcp.async_save(self.named(), checkpoint_id=path, **options)
        stall_s = time.perf_counter() - began
        slower_s = self.until(future.done)
        future.result()
        return Saved(stall_s=stall_s, lost_s=stall_s + slower_s, save_s=time.perf_counter() - began)

    def save_torch(self, path: Path) -> Saved:
        def save() -> None:
            path.mkdir(exist_ok=True)
            with (path / f"{self.rank}.pt").open("wb") as file:
                self.torch.save(self.tensors, file)
                file.flush()
                os.fsync(file.fileno())

        return self.blocking(save)

    def save_plain(self, path: Path) -> Saved:
        """Write the same bytes in large blocks, with a checksum and without."""

        def save() -> None:
            path.mkdir(exist_ok=True)
            fd = os.open(path / f"{self.rank}.bin", os.O_WRONLY | os.O_CREAT)
            for tensor in self.tensors.values():
                view = tensor.view(-1).view(self.torch.uint8).numpy().data
                for start in range(0, len(view), BLOCK_BYTES):
                    os.write(fd, view[start : start + BLOCK_BYTES])
            os.fsync(fd)
            os.close(fd)
            folder = os.open(path, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

        return self.blocking(save)

    def blocking(self, save: Callable[[], object]) -> Saved:
        self.dist.barrier()
        began = time.perf_counter()
        save()
        self.dist.barrier()
        seconds = time.perf_counter() - began
        return Saved(stall_s=seconds, lost_s=seconds, save_s=seconds)

    def load_relaunch(self, path: Path) -> float:
        """Read the half of every tensor, as another number of ranks would; count the bytes."""
        from checkpointing import CheckpointStore, stripe
        from checkpointing.files import Files

        class Counting(Files):
            num_bytes = 0

            def pread(self, fd: int, into: memoryview, offset: int) -> int:
                found = super().pread(fd, into, offset)
                self.num_bytes += found
                return found

        files = Counting()
        specs = self.specs()
        pieces = stripe(
            [spec.size_bytes for spec in specs],
            WORLD - 1 - self.rank,
            WORLD,
            itemsizes_bytes=[4] * len(specs),
        )
        outs = [self.torch.empty(p.end - p.start) for p in pieces]
        self.dist.barrier()
        began = time.perf_counter()
        with CheckpointStore(path, files).open(1) as reader:
            for piece, out in zip(pieces, outs, strict=True):
                spec = specs[piece.tensor]
                reader.read_into(spec.fqn, spec.key, piece.start, piece.end, out)
        self.dist.barrier()
        seconds = time.perf_counter() - began
        self.read_share = files.num_bytes / sum(out.numel() * 4 for out in outs)
        return seconds

    def load_dcp(self, path: Path) -> float:
        import torch.distributed.checkpoint as dcp

        self.dist.barrier()
        began = time.perf_counter()
        dcp.load({f"r{self.rank}.{n}": t for n, t in self.buffers.items()}, checkpoint_id=path)
        self.dist.barrier()
        return time.perf_counter() - began

    def load_torch(self, path: Path) -> float:
        self.dist.barrier()
        began = time.perf_counter()
        self.torch.load(path / f"{self.rank}.pt")
        self.dist.barrier()
        return time.perf_counter() - began

    def named(self) -> dict[str, object]:
        return {f"r{self.rank}.{name}": tensor for name, tensor in self.tensors.items()}

    def talk(self) -> object:
        return Talk(self.dist, self.rank)

    def largest(self, value: float) -> float:
        """Return the largest of all ranks' values."""
        tensor = self.torch.tensor([value], dtype=self.torch.float64)
        self.dist.all_reduce(tensor, op=self.dist.ReduceOp.MAX)
        return float(tensor)

    def run(self, rounds: int) -> None:
        for number in range(rounds + 1):  # the first round warms everything up
            copy_s = self.largest(self.copy_s())
            self.tell(number, "warm copy in memory", stall_s=copy_s)
            for name, save in self.methods.items():
                path = self.folder / f"{number}-{name.replace(' ', '-')}"
                self.dist.barrier()
                reset_peak()
                before_kib = rss_kib("VmRSS")
                saved = save(path)
                extra = (rss_kib("VmHWM") - before_kib) * 1024 / self.local_bytes
                found = {key: self.largest(value) for key, value in vars(saved).items()}
                if number == 0:
                    found = {"extra_memory": self.largest(extra)}
                elif name in self.loads:
                    found["load_s"] = self.largest(self.loads[name](path))
                    if name.startswith("relaunch"):
                        found["read_share"] = self.largest(self.read_share)
                self.tell(number, name, **found)
                self.dist.barrier()
                if self.rank == 0:
                    shutil.rmtree(path)
        self.writer.close()
        self.dist.destroy_process_group()

    def tell(self, number: int, name: str, **values: float) -> None:
        if self.rank == 0:
            print(json.dumps({"round": number, "name": name, **values}), flush=True)


class Talk:
    """JSON over torch's object collectives."""

    world_size = WORLD

    def __init__(self, dist: object, rank: int) -> None:
        self.dist, self.rank = dist, rank

    def gather(self, value: object) -> list[object] | None:
        found: list[object] = [None] * WORLD
        self.dist.all_gather_object(found, value)
        return found if self.rank == 0 else None

    def broadcast(self, value: object) -> object:
        held = [value]
        self.dist.broadcast_object_list(held, src=0)
        return held[0]


def make_tensors(torch: object, mib: int, seed: int) -> dict[str, object]:
    """Return 96 tensors of mixed, odd sizes, together about so many MiB."""
    torch.manual_seed(seed)
    shares = [4.0] * 32 + [1.0] * 32 + [0.01] * 32
    unit = mib * 1024 * 1024 / 4 / sum(shares)
    return {f"t{i}": torch.randn(int(unit * share) | 1) for i, share in enumerate(shares)}


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def rss_kib(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {name}")


@dataclass
class Taken:
    values: dict[str, list[float]] = field(default_factory=dict)

    def shown(self, key: str) -> str:
        found = self.values.get(key, [])
        if not found:
            return ""
        if key in ("extra_memory", "read_share"):
            return f"x{statistics.median(found):.2f}"
        if len(found) < 4:
            return f"{statistics.median(found):.3f}"
        low, _, high = statistics.quantiles(found, n=4)
        return f"{statistics.median(found):.3f} ({low:.3f}-{high:.3f})"


def measure(where: str, folder: Path, mib: int, rounds: int) -> str:
    """Run the ranks in a folder and return a table."""
    port = 20000 + zlib.crc32(str(folder).encode()) % 20000
    ranks = [
        subprocess.Popen(
            [
                sys.executable,
                __file__,
                "--worker",
                str(folder),
                f"--mib={mib}",
                f"--rounds={rounds}",
            ],
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": str(WORLD),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
                "PYTHONWARNINGS": "ignore",
            },
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            text=True,
        )
        for rank in range(WORLD)
    ]
    taken: dict[str, Taken] = {}
    for line in ranks[0].stdout:
        found = json.loads(line)
        print(f"{where}: {line.strip()}", file=sys.stderr)
        number, name = found.pop("round"), found.pop("name")
        if number or "extra_memory" in found:
            for key, value in found.items():
                taken.setdefault(name, Taken()).values.setdefault(key, []).append(value)
    codes = [rank.wait(timeout=TIMEOUT_S) for rank in ranks]
    if any(codes):
        raise SystemExit(f"the ranks ended with {codes}")
    rows = [["", *COLUMNS], ["---", *("--:" for _ in COLUMNS)]]
    rows += [[name, *(one.shown(key) for key in COLUMNS.values())] for name, one in taken.items()]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"**{where}**\n\n{lines}\n\n{ratios(taken)}\n"


def ratios(taken: dict[str, Taken]) -> str:
    def median(name: str, key: str) -> float:
        return statistics.median(taken[name].values[key])

    ours, plain = "relaunch, in the background", "plain write and sync"
    copy_s = median("warm copy in memory", "stall_s")
    rivals = [name for name in taken if name.startswith("torch")]
    best_stall = min(rivals, key=lambda name: median(name, "stall_s"))
    best_lost = min(rivals, key=lambda name: median(name, "lost_s"))
    return (
        f"Stall: {median(ours, 'stall_s') / copy_s:.2f} times a warm copy in memory, "
        f"{median(ours, 'stall_s') / median(best_stall, 'stall_s'):.2f} times that of "
        f"{best_stall}. Training time lost: "
        f"{median(ours, 'lost_s') / median(best_lost, 'lost_s'):.2f} times that of {best_lost}. "
        f"Throughput of a save: {median(plain, 'save_s') / median(ours, 'save_s'):.2f} of the "
        f"plain write in the background, "
        f"{median(plain, 'save_s') / median('relaunch, synchronous', 'save_s'):.2f} synchronous."
    )


def simulate() -> str:
    """Plan a save of 100e9 parameters, make its manifest and read it; return a table."""
    rows = [
        [
            "layout",
            "ranks",
            "chunks",
            "plan, one rank (s)",
            "make (s)",
            "read (s)",
            "MiB",
            "peak MiB",
        ]
    ]
    rows.append(["---", *("--:" for _ in rows[0][1:])])
    for layout, worlds in (("a line", (256, 512, 1024)), ("every tensor cut", (32, 64, 128))):
        for world in worlds:
            done = subprocess.run(
                [sys.executable, __file__, "--simulate-one", layout, str(world)],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=TIMEOUT_S,
            )
            print(done.stdout.strip(), file=sys.stderr)
            rows.append([layout, str(world), *json.loads(done.stdout)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def simulate_one(layout: str, world: int) -> list[str]:
    from checkpointing import TensorSpec, stripe
    from checkpointing.manifest import BLOCK_BYTES, Chunk, StoredFile, StoredTensor
    from checkpointing.manifest_text import encode_manifest, parse_manifest
    from checkpointing.report import ShardReport, merge_reports

    width, layers = 10240, 80
    shapes = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)] + [(width,)] * 6
    specs = [
        TensorSpec(fqn=f"layers.{layer}.{i}", key=key, shape=shape, dtype="F32")
        for key in ("fp32", "exp_avg", "exp_avg_sq")
        for layer in range(layers)
        for i, shape in enumerate(shapes)
    ]
    sizes, items = [spec.size_bytes for spec in specs], [4] * len(specs)

    def pieces(rank: int) -> list[tuple[int, int, int]]:
        if layout == "a line":
            return list(stripe(sizes, rank, world, itemsizes_bytes=items))
        cuts = ((i, spec.numel * rank // world, spec.numel) for i, spec in enumerate(specs))
        return [(i, start, numel * (rank + 1) // world) for i, start, numel in cuts]

    began = time.perf_counter()
    pieces(world // 2)
    plan_s = time.perf_counter() - began
    reports = []
    for rank in range(world):
        name, offset, tensors = f"r{rank:05d}.safetensors", 4096, []
        for index, start, end in pieces(rank):
            chunk = Chunk(file=name, start=start, end=end, offset=offset)
            tensors.append(StoredTensor(spec=specs[index], chunks=(chunk,)))
            offset += (end - start) * 4
        file = StoredFile(
            name=name,
            size_bytes=offset,
            block_bytes=BLOCK_BYTES,
            crc32=(4_000_000_000,) * -(-offset // BLOCK_BYTES),
        )
        reports.append(ShardReport(files=(file,), tensors=tuple(tensors)))
    num_chunks = sum(len(report.tensors) for report in reports)
    began = time.perf_counter()
    manifest = merge_reports(
        reports, specs, step=1, token="0123456789abcdef", state={}, created_by={}
    )
    text = encode_manifest(manifest)
    make_s = time.perf_counter() - began
    del manifest, reports
    began = time.perf_counter()
    parse_manifest(text)
    read_s = time.perf_counter() - began
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    numbers = [f"{plan_s:.3f}", f"{make_s:.2f}", f"{read_s:.2f}"]
    return [str(num_chunks), *numbers, f"{len(text) / 2**20:.0f}", f"{peak_mib:.0f}"]


def machine() -> str:
    import importlib.metadata

    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")]
    return (
        f"{len(os.sched_getaffinity(0))} cores ({models[0] if models else platform.machine()}), "
        f"Linux {platform.release()}, Python {platform.python_version()}, torch "
        f"{importlib.metadata.version('torch')}, load average "
        f"{', '.join(f'{load:.1f}' for load in os.getloadavg())}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=256, help="of each of the two ranks")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--save", type=Path, help="also write the tables to this file")
    parser.add_argument("--simulate", action="store_true", help="1,024 ranks, 100e9 parameters")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--simulate-one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        Bench(given.worker, given.mib).run(given.rounds)
        return
    if given.simulate_one is not None:
        print(json.dumps(simulate_one(given.simulate_one[0], int(given.simulate_one[1]))))
        return
    if given.simulate:
        result = f"{machine()}\n\n{simulate()}"
    else:
        tables = []
        for where, place in (("disk", given.disk), ("tmpfs", given.tmpfs)):
            with tempfile.TemporaryDirectory(prefix="bench-checkpoint-", dir=place) as folder:
                tables.append(measure(where, Path(folder), given.mib, given.rounds))
        result = (
            f"{machine()} {WORLD} ranks, {given.mib} MiB each, medians of {given.rounds} "
            f"interleaved rounds (in brackets the middle half).\n\n" + "\n".join(tables)
        )
    print(result)
    if given.save is not None:
        given.save.write_text(result)


if __name__ == "__main__":
    main()
