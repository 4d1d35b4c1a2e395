"""Where the sub-commands' answers go: stdout, as lines or as one JSON document."""

import json
import sys

from checkpointing import JSON


def print_json(document: JSON) -> None:
    """Print one JSON document, indented."""
    print(json.dumps(document, indent=2), flush=True)


def print_lines(*lines: str) -> None:
    """Print lines; a name that the terminal's encoding lacks is shown with escapes."""
    encoding = sys.stdout.encoding or "ascii"
    text = "\n".join(lines).encode(encoding, "backslashreplace").decode(encoding)
    print(text, flush=True)
