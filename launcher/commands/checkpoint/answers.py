"""The sub-commands' answers: on stdout, as lines or one JSON document, and as exit codes."""

import json
import sys

from checkpointing import JSON

from ...terminal.printable import printable

FINE = 0
"""Wrong usage is 2, as everywhere."""
DAMAGED = 1
"""Damage was found, or the disk refused."""
DIFFERENT = 1


def print_json(document: JSON) -> None:
    """Print one JSON document, indented."""
    print(json.dumps(document, indent=2), flush=True)


def print_lines(*lines: str) -> None:
    """Print each as one line; what a terminal obeys or cannot show is shown with escapes."""
    encoding = sys.stdout.encoding or "ascii"
    text = "\n".join(map(printable, lines)).encode(encoding, "backslashreplace").decode(encoding)
    print(text, flush=True)
