"""`relaunch checkpoint show`: one manifest in a form that a person can read."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping

from checkpointing import JSON, CheckpointReader, flatten

from ...command_line.subcommand_parser import place
from ...run_folder.tables import plural, render, size_text
from .answers import FINE, print_json, print_lines
from .named_files import named_lines
from .target import add_weights, choose, find_target

HELP = "Show one checkpoint: its tensors, its files, the run's state, and what wrote it."

_MAX_ITEMS = 8
_HEADERS = ("tensor", "key", "shape", "dtype", "size", "chunks")


def add_arguments(parser: ArgumentParser) -> None:
    """Add what `show` takes."""
    parser.add_argument("folder", type=place, metavar="FOLDER")
    add_weights(parser)
    parser.add_argument("step", type=int, nargs="?", metavar="STEP", help="default: the newest")


def run(given: Namespace) -> int:
    """Print the manifest."""
    with choose(find_target(given.folder, given.weights), given.step).open() as reader:
        if given.json:
            print_json(_document(reader))
        else:
            print_lines(*_lines(reader))
    return FINE


def _document(reader: CheckpointReader) -> JSON:
    manifest = reader.manifest
    return {
        "folder": str(reader.folder),
        "step": manifest.step,
        "size_bytes": manifest.size_bytes,
        "created_by": manifest.created_by,
        "state": manifest.state,
        "tensors": [
            {
                "fqn": tensor.spec.fqn,
                "key": tensor.spec.key,
                "shape": list(tensor.spec.shape),
                "dtype": tensor.spec.dtype,
                "size_bytes": tensor.spec.size_bytes,
                "chunks": [
                    {"file": c.file, "start": c.start, "end": c.end, "offset": c.offset}
                    for c in tensor.chunks
                ],
            }
            for tensor in manifest.tensors
        ],
        "files": [
            {"name": file.name, "size_bytes": file.size_bytes, "num_blocks": len(file.crc32)}
            for file in manifest.files
        ],
        "named": [
            {"path": one.path, "tensor": one.tensor, "size_bytes": one.size_bytes}
            for one in manifest.named
        ],
    }


def _lines(reader: CheckpointReader) -> list[str]:
    manifest = reader.manifest
    rows = [
        (
            t.spec.fqn,
            t.spec.key,
            " x ".join(map(str, t.spec.shape)) or "scalar",
            t.spec.dtype,
            size_text(t.spec.size_bytes),
            str(len(t.chunks)),
        )
        for t in manifest.tensors
    ]
    return [
        f"{reader.folder}: step {manifest.step}, {size_text(manifest.size_bytes)}, "
        f"{plural(len(manifest.tensors), 'tensor')} in {plural(len(manifest.files), 'file')}",
        "",
        *render(_HEADERS, rows, right="size chunks").split("\n"),
        "",
        *[f"{file.name}  {size_text(file.size_bytes)}" for file in manifest.files],
        *named_lines(manifest),
        "",
        *[
            f"state.{'.'.join(path)} = {_short(v)}"
            for path, v in flatten(_shortened(manifest.state))
        ],
        *[f"created_by.{'.'.join(path)} = {_short(v)}" for path, v in flatten(manifest.created_by)],
    ]


def _shortened(value: JSON) -> JSON:
    """Replace large objects, such as the scalars of each parameter, by their number."""
    if not isinstance(value, Mapping):
        return value
    if len(value) > 4 * _MAX_ITEMS:
        return f"({len(value)} entries; --json shows them)"
    return {name: _shortened(item) for name, item in value.items()}


def _short(value: JSON) -> str:
    if isinstance(value, list) and len(value) > _MAX_ITEMS:
        return f"({len(value)} items; --json shows them)"
    return json.dumps(value, ensure_ascii=False)
