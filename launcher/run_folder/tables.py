"""Tables and sizes as text. Pure."""

from collections.abc import Sequence

from ..terminal.printable import printable


def render(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "") -> str:
    """Return lines of aligned columns.

    Args:
        headers: The names of the columns.
        rows: Each with one cell per column; shown as `printable` does.
        right: The names, separated by spaces, of the columns that are aligned to the right.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    is_right = [header in right.split() for header in headers]
    lines = []
    for row in (headers, *rows):
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, is_right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def size_text(size_bytes: int) -> str:
    """Return a size with three digits that count, such as "1.23 GiB"."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1000:
            return f"{size_bytes} B" if unit == "B" else f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.3g} TiB"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 tensor" and "2 tensors"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
