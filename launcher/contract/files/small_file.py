"""The small files between launcher and ranks: whole, or not there at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Give the file this content, of which a reader never sees half.

    Raises:
        OSError: From the disk; the file is as it was.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(path)
