"""Plan, make and read the manifest of 100e9 parameters on many ranks, in one process."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench_table import markdown_table

WORLDS = (64, 256, 1024)
TIMEOUT_S = 600.0
HEAD = (
    "layout",
    "ranks",
    "chunks",
    "plan of one rank (CPU s)",
    "made from all reports (CPU s)",
    "read (CPU s)",
    "us per chunk",
    "manifest (MiB)",
    "peak memory (MiB)",
)
WIDTH, LAYERS = 10240, 80
SHAPES = [(WIDTH, WIDTH)] * 4 + [(WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)] + [(WIDTH,)] * 6
HEADER_BYTES = 4096


def simulate(script: str) -> str:
    """Take every layout and number of ranks in a process of its own; return a table."""
    rows = []
    for layout in LAYOUTS:
        for world in WORLDS:
            done = subprocess.run(
                [sys.executable, script, "--simulate-one", layout, str(world)],
                env={**os.environ, "PYTHONPATH": str(Path(script).resolve().parents[1])},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=TIMEOUT_S,
            )
            print(f"{layout}, {world} ranks: {done.stdout.strip()}", file=sys.stderr)
            rows.append([layout, f"{world:,}", *json.loads(done.stdout)])
    return markdown_table(HEAD, rows) + "\n"


def cut_line(sizes: list[int], numels: list[int], rank: int, world: int) -> Iterator:
    """Lay all tensors end to end and cut the line, as under DDP and ZeRO 1 and 2."""
    from checkpointing import stripe

    return iter(stripe(sizes, rank, world, itemsizes_bytes=[4] * len(sizes)))


def cut_each(sizes: list[int], numels: list[int], rank: int, world: int) -> Iterator:
    """Cut every tensor, as under FSDP and ZeRO 3."""
    for index, numel in enumerate(numels):
        yield index, numel * rank // world, numel * (rank + 1) // world


LAYOUTS = {"one line cut": cut_line, "every tensor cut": cut_each}


def simulate_one(layout: str, world: int) -> list[str]:
    """Return the numbers of one row."""
    from checkpointing import TensorSpec
    from checkpointing.format.manifest_json import encode_manifest, parse_manifest
    from checkpointing.saving.shard_report import ShardReport, merge_reports

    specs = [
        TensorSpec(fqn=f"layers.{layer}.{i}", key=key, shape=shape, dtype="F32")
        for key in ("fp32", "exp_avg", "exp_avg_sq")
        for layer in range(LAYERS)
        for i, shape in enumerate(SHAPES)
    ]
    sizes, numels = [spec.size_bytes for spec in specs], [spec.numel for spec in specs]

    def pieces(rank: int) -> Iterator:
        return LAYOUTS[layout](sizes, numels, rank, world)

    began = time.process_time()
    list(pieces(world // 2))
    plan_s = time.process_time() - began
    messages = [json.dumps([report(specs, pieces(rank), rank)]) for rank in range(world)]
    began = time.process_time()
    known = {spec.name: spec for spec in specs}
    manifest = merge_reports(
        (ShardReport.parse(json.loads(message), known) for message in messages),
        specs,
        step=1,
        token="0123456789abcdef",
        state={},
        created_by={},
    )
    text = encode_manifest(manifest)
    make_s = time.process_time() - began
    num_chunks = sum(len(tensor.chunks) for tensor in manifest.tensors)
    del manifest, messages
    began = time.process_time()
    parse_manifest(text)
    read_s = time.process_time() - began
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    per_chunk_us = (make_s + read_s) / num_chunks * 1e6
    seconds = [f"{plan_s:.3f}", f"{make_s:.2f}", f"{read_s:.2f}"]
    sizes_mib = [f"{len(text) / 2**20:.0f}", f"{peak_mib:.0f}"]
    return [f"{num_chunks:,}", *seconds, f"{per_chunk_us:.0f}", *sizes_mib]


def report(specs: list, pieces: Iterator, rank: int) -> object:
    """Return what a rank would say that it wrote."""
    from checkpointing.format.manifest import BLOCK_BYTES, StoredFile
    from checkpointing.saving.shard_report import WrittenFile, spell_rows

    offset, places = HEADER_BYTES, []
    for index, start, end in pieces:
        places.append((specs[index], start, end, offset))
        offset += (end - start) * 4
    file = StoredFile(
        name=f"r{rank:05d}.safetensors",
        size_bytes=offset,
        block_bytes=BLOCK_BYTES,
        crc32=(4_000_000_000,) * -(-offset // BLOCK_BYTES),
    )
    return WrittenFile(record=file, rows=spell_rows(places)).encode()
