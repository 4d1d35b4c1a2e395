"""Sizes as they are written on the command line."""

from argparse import ArgumentTypeError

import pytest

from launcher.command_line.byte_size import byte_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("7", 7), ("5GB", 5 * 10**9), ("1.5 MiB", 3 * 2**19), ("2k", 2000), ("1TB", 10**12)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert byte_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "GB", "5 xB", "1iB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="write for example 500MB"):
        byte_size(text)
