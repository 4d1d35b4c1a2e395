"""The parser of relaunch's own commands, such as `relaunch report`."""

import argparse
from typing import Any, NoReturn

from ..errors import UsageError


class CommandParser(argparse.ArgumentParser):
    """argparse which raises UsageError instead of exiting by itself."""

    def __init__(self, **settings: Any) -> None:
        """Take argparse's settings; options cannot be abbreviated, an epilog keeps its lines."""
        if "epilog" in settings:
            settings["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Refuse the words.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{message}. See {self.prog} --help.")
