"""Reading what is new in a file of JSON lines that another process writes."""

import json
import os
from pathlib import Path
from typing import Any


class Follower:
    """Reads on where it was; a file that was written anew is compared by the records' times."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode: int | None = None
        self._offset = 0
        self._newest: Any = None

    def news(self) -> list[dict[str, Any]]:
        """Return the whole lines since the last call."""
        try:
            with self._path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                again = self._inode is not None and inode != self._inode
                if again:
                    self._offset = 0
                self._inode = inode
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        found = [record for line in whole.splitlines() if (record := _parse(line)) is not None]
        if again:
            # After a resume: the records of steps that are done again were dropped.
            found = [r for r in found if self._newest is None or r["time"] > self._newest]
        if found:
            self._newest = found[-1].get("time", self._newest)
        return found


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # a line that a kill has cut off
        return None
    return record if isinstance(record, dict) else None
