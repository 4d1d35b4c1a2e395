"""Bytes into lines, and the last of them."""

MAX_LINE_BYTES = 65536
"""A longer line is shown in pieces."""


class LineSplitter:
    """Cuts a stream of bytes into lines; what is not text passes through unchanged."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that are complete now, each with its end."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        done = [line + b"\n" for line in lines]
        if len(self._rest) >= self._max_line_bytes:
            done.append(self.flush())
        return done

    def flush(self) -> bytes:
        """Return what has no end yet as a line, or nothing."""
        rest, self._rest = self._rest, b""
        return rest + b"\n" if rest else b""


class PieceHolder:
    """Holds back the piece of a line that is not complete, so that others' lines do not cut it.

    A carriage return ends a piece as well: a progress bar is one refresh late, and not stuck.
    """

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return what is complete now; an empty chunk is the end, and returns the rest."""
        data = self._held + chunk
        cut = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if not chunk or len(data) - cut >= self._max_bytes:
            cut = len(data)
        self._held = data[cut:]
        return data[:cut]
