"""`relaunch checkpoint list`: which checkpoints there are, who wrote them, whether they open."""

from argparse import ArgumentParser, Namespace
from typing import Any

from checkpointing import (
    JSON,
    PIN_NAME,
    DamagedCheckpointError,
    Files,
    Found,
    take_inventory,
)
from checkpointing.store.inventory import own_bytes, own_bytes_of

from ...command_line.subcommand_parser import place
from ...run_folder.checkpoint_summary import summary
from ...run_folder.tables import render, size_text
from .answers import DAMAGED, FINE, print_json, print_lines
from .named_files import not_held_text
from .target import Target, add_weights, find_target

HELP = "List the checkpoints of a run: size, strategy, best evaluation, state."

_HEADERS = ("step", "size", "strategy", "ranks", "precision", "best", "state")
_OWN = "own"
"""Of the size, what only this checkpoint holds: a column where some share files."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what `list` takes."""
    parser.add_argument("folder", type=place, metavar="FOLDER")
    add_weights(parser)


def run(given: Namespace) -> int:
    """Print the table; 1 if a checkpoint does not open."""
    target = find_target(given.folder, given.weights)
    sections = [_one(target)] if target.is_one else []
    for name, store in target.stores:
        inventory = take_inventory(store)
        own = own_bytes(store, inventory)
        sections.append(
            {
                "name": name,
                "folder": str(store.folder),
                "checkpoints": [
                    _row(found, store.files, own.get(found.step)) for found in inventory.found
                ],
                "refused": list(inventory.refused),
                "leftovers": list(inventory.leftovers),
            }
        )
    if given.json:
        print_json(sections)
    else:
        for number, section in enumerate(sections):
            print_lines(*([""] if number else []), *_lines(section))
    is_damaged = any(row["problem"] for section in sections for row in section["checkpoints"])
    return DAMAGED if is_damaged else FINE


def _one(target: Target) -> dict[str, Any]:
    folder = target.path
    row: dict[str, JSON]
    try:
        with target.open_only() as reader:
            step = reader.manifest.step
            found = Found(step=step, folder=folder, manifest=reader.manifest)
            own = own_bytes_of(folder, reader.manifest, target.files)
            row = _row(found, target.files, own)
    except DamagedCheckpointError as error:
        row = {"step": None, "folder": str(folder), "opens": False, "problem": str(error)}
    return {
        "name": folder.name,
        "folder": str(folder.parent),
        "checkpoints": [row],
        "refused": [],
        "leftovers": [],
    }


def _row(found: Found, files: Files, own_bytes: int | None) -> dict[str, Any]:
    """Return a checkpoint as it stands in the JSON document."""
    row: dict[str, JSON] = {
        "step": found.step,
        "folder": str(found.folder),
        "opens": found.manifest is not None,
        "problem": found.problem,
        "pinned": files.exists(found.folder / PIN_NAME),
    }
    if found.manifest is not None:
        row |= {
            "size_bytes": found.manifest.size_bytes,
            "own_bytes": own_bytes,
            "named_bytes": found.manifest.named_bytes,
            "named_files": list(found.manifest.named_paths),
            "num_tensors": len(found.manifest.tensors),
            "num_files": len(found.manifest.files),
            **summary(found.manifest.state, found.manifest.created_by),
        }
    return row


def _lines(section: dict[str, Any]) -> list[str]:
    lines = [f"{section['folder']}:"]
    if section["checkpoints"]:
        found = section["checkpoints"]
        has_shared = any(row["opens"] and row["own_bytes"] < row["size_bytes"] for row in found)
        headers = (*_HEADERS[:2], *([_OWN] if has_shared else ()), *_HEADERS[2:])
        rows = [_cells(row, with_own=has_shared) for row in found]
        lines += render(headers, rows, right="step size own ranks").split("\n")
    else:
        lines.append("no checkpoint")
    lines += [row["problem"] for row in section["checkpoints"] if row["problem"]]
    lines += dict.fromkeys(
        not_held_text(row["named_bytes"], row["named_files"])
        for row in section["checkpoints"]
        if row.get("named_bytes")
    )
    lines += [f"{name}: found damaged by a run and set aside" for name in section["refused"]]
    lines += [
        f"{name}: a save in flight or of a run that died; the next start removes it"
        for name in section["leftovers"]
    ]
    return lines


def _cells(row: dict[str, Any], *, with_own: bool) -> tuple[str, ...]:
    if not row["opens"]:
        step = "" if row["step"] is None else str(row["step"])
        return (step, *([""] * (5 + with_own)), "does not open")
    best = "" if row["best"] is None else f"{row['best']:.6g} at {row['best_step']}"
    return (
        str(row["step"]),
        size_text(row["size_bytes"]),
        *([size_text(row["own_bytes"])] if with_own else ()),
        *("" if row[name] is None else str(row[name]) for name in _HEADERS[2:3]),
        *("" if row[name] is None else str(row[name]) for name in ("world_size", "precision")),
        best,
        (row["ending"] or "opens") + (", pinned" if row["pinned"] else ""),
    )
