"""`relaunch checkpoint diff`: in what two checkpoints differ."""

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import asdict
from typing import Any

from checkpointing import (
    JSON,
    CheckpointReader,
    SpecDifference,
    different_specs,
    different_states,
    different_values,
)

from ...command_line.subcommand_parser import place
from ...run_folder.tables import plural, render
from .answers import DIFFERENT, FINE, print_json, print_lines
from .target import add_weights, choose, find_target

HELP = "Compare two checkpoints: names, shapes, dtypes and values of tensors, and the state."

_MAX_TEXT = 60


def add_arguments(parser: ArgumentParser) -> None:
    """Add what `diff` takes."""
    for name in ("left", "right"):
        parser.add_argument(
            name,
            type=place,
            metavar=name.upper(),
            help="one checkpoint, or a folder: its newest",
        )
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        default=0.0,
        metavar="X",
        help="treat values that differ by at most X as equal (default 0: bit for bit)",
    )
    add_weights(parser)
    parser.add_argument("--no-values", action="store_true", help="do not read the tensors")


def run(given: Namespace) -> int:
    """Print the differences; 1 if there is any. Who wrote the two is shown and does not count."""
    with (
        choose(find_target(given.left, given.weights), None).open() as left,
        choose(find_target(given.right, given.weights), None).open() as right,
    ):
        document = _compare(left, right, given.tolerance, with_values=not given.no_values)
    if given.json:
        print_json(document)
    else:
        print_lines(*_lines(document, with_values=not given.no_values))
    is_different = any(document[name] for name in ("tensors", "values", "state"))
    return DIFFERENT if is_different else FINE


def _compare(
    left: CheckpointReader, right: CheckpointReader, tolerance: float, *, with_values: bool
) -> dict[str, Any]:
    ours, theirs = left.manifest, right.manifest
    values = different_values(left, right) if with_values else ()
    return {
        "left": str(left.folder),
        "right": str(right.folder),
        "num_tensors": len(ours.tensors),
        "tensors": [_spec_json(one) for one in different_specs(ours.specs(), theirs.specs())],
        # An infinite distance has no JSON: it goes as text.
        "values": [
            {"name": v.name, "num_elements": v.num_elements, "largest": _finite(v.largest)}
            for v in values
            if not tolerance or v.largest > tolerance
        ],
        "state": [asdict(one) for one in different_states(ours.state, theirs.state)],
        "created_by": [asdict(o) for o in different_states(ours.created_by, theirs.created_by)],
    }


def _lines(document: dict[str, Any], *, with_values: bool) -> list[str]:
    lines = [f"left:  {document['left']}", f"right: {document['right']}"]
    lines += [
        f"{one['name']}: {_spec_text(one['left'])} | {_spec_text(one['right'])}"
        for one in document["tensors"]
    ]
    if document["values"]:
        rows = [(v["name"], str(v["num_elements"]), f"{v['largest']}") for v in document["values"]]
        headers = ("tensor", "elements", "largest")
        lines += ["", *render(headers, rows, right="elements largest").split("\n"), ""]
    lines += [
        f"{part}.{one['path']}: {_short(one['left'])} | {_short(one['right'])}"
        for part in ("state", "created_by")
        for one in document[part]
    ]
    tensors = plural(document["num_tensors"], "tensor")
    if not document["tensors"] and not document["values"]:
        equal = "the same names, shapes, dtypes" + (" and values" if with_values else "")
        lines.append(f"{tensors}: {equal}")
    return lines


def _spec_json(difference: SpecDifference) -> JSON:
    sides = {"left": difference.left, "right": difference.right}
    return {
        "name": difference.name,
        **{
            side: None if spec is None else {"shape": list(spec.shape), "dtype": spec.dtype}
            for side, spec in sides.items()
        },
    }


def _spec_text(spec: dict[str, Any] | None) -> str:
    return "not there" if spec is None else f"{tuple(spec['shape'])} {spec['dtype']}"


def _finite(distance: float) -> JSON:
    return distance if distance < float("inf") else "inf"


def _short(value: JSON) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ArgumentTypeError(f"{text} is no distance from 0 on")
    return value
