"""The parser of relaunch's own commands, such as `relaunch report`."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UsageError


def place(text: str) -> str:
    """Read a folder, a file or a URL; nothing at all would mean the working folder.

    Raises:
        ArgumentTypeError: It is empty.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty. Is a variable not set?")
    return text


class CommandParser(argparse.ArgumentParser):
    """argparse which raises UsageError instead of exiting by itself."""

    def __init__(self, **settings: Any) -> None:
        """Take argparse's settings; options cannot be abbreviated, an epilog keeps its lines."""
        if "epilog" in settings:
            settings["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(**settings, allow_abbrev=False)
        self.register("type", Path, lambda text: Path(place(text)))

    def error(self, message: str) -> NoReturn:
        """Refuse the words.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{message}. See {self.prog} --help.")
