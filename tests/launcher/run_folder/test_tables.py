import pytest

from launcher.run_folder.tables import plural, render, size_text


def test_columns_are_aligned():
    text = render(("step", "who"), [("1", "a"), ("1000000", "")], right="step")
    assert text.splitlines() == ["   step  who", "      1  a", "1000000"]


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1024, "1 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (84 * 1024**3, "84 GiB"),
        (5 * 1024**4, "5 TiB"),
    ],
)
def test_sizes(size_bytes, text):
    assert size_text(size_bytes) == text


def test_plural():
    assert [plural(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
