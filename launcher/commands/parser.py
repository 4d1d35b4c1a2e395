"""The parser of relaunch's own commands, such as `relaunch report`."""

import argparse
from typing import NoReturn

from ..errors import UsageError


class CommandParser(argparse.ArgumentParser):
    """argparse which raises UsageError instead of leaving by itself."""

    def error(self, message: str) -> NoReturn:
        """Refuse the words.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{message}. See {self.prog} --help.")
