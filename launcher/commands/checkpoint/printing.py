"""Where the sub-commands' answers go: stdout, as lines or as one JSON document."""

import json
import sys

from checkpointing import JSON

from ...terminal.printable import printable


def print_json(document: JSON) -> None:
    """Print one JSON document, indented."""
    print(json.dumps(document, indent=2), flush=True)


def print_lines(*lines: str) -> None:
    """Print each as one line; what a terminal obeys or cannot show is shown with escapes."""
    encoding = sys.stdout.encoding or "ascii"
    text = "\n".join(map(printable, lines)).encode(encoding, "backslashreplace").decode(encoding)
    print(text, flush=True)
