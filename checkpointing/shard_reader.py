"""Read byte ranges of one shard, never handing out a byte whose block was not checked."""

from pathlib import PurePath

from .checksum import crc32
from .errors import DamagedCheckpointError
from .files import Files
from .manifest import StoredFile
from .whole_file import reading


class ShardReader:
    """One shard. Each block is checked when it is first touched, and then trusted.

    Not for use by several threads at once.
    """

    def __init__(self, path: PurePath, record: StoredFile, files: Files) -> None:
        self.path = path
        self._record = record
        self._files = files
        self._fd: int | None = None
        self._verified = bytearray(len(record.crc32))
        # The block of which only a part was wanted: the next tensor begins where that one ends.
        self._kept_block = -1
        self._kept = memoryview(b"")

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill a buffer with the bytes from an offset on.

        Args:
            offset: In bytes, counted from the start of the file.
            out: Of itemsize 1. Its content is undefined if this raises.

        Raises:
            DamagedCheckpointError: If a block touched is missing or not what was written.
        """
        end = offset + len(out)
        block_bytes = self._record.block_bytes
        for block in range(offset // block_bytes, -(-end // block_bytes)):
            first, last = self._record.block_range(block)
            low, high = max(offset, first), min(end, last)
            target = out[low - offset : high - offset]
            if block == self._kept_block:
                target[:] = self._kept[low - first : high - first]
            elif self._verified[block]:
                self._fill(target, low)
            elif (low, high) == (first, last):
                self._fill_verified(block, target)
            else:
                whole = memoryview(bytearray(last - first))
                self._fill_verified(block, whole)
                target[:] = whole[low - first : high - first]
                self._kept_block, self._kept = block, whole

    def find_damage(self) -> list[str]:
        """Re-read every block; return what is wrong, one line per damaged block."""
        lines = []
        scratch = memoryview(bytearray(min(self._record.block_bytes, self._record.size_bytes)))
        for block in range(len(self._record.crc32)):
            first, last = self._record.block_range(block)
            try:
                self._fill_verified(block, scratch[: last - first])
            except DamagedCheckpointError as error:
                lines.append(str(error))
        return lines

    def close(self) -> None:
        """Close the file if it is open; the next read opens it again."""
        fd, self._fd = self._fd, None
        self._kept_block, self._kept = -1, memoryview(b"")
        if fd is not None:
            self._files.close(fd)

    def _fill_verified(self, block: int, target: memoryview) -> None:
        first, last = self._record.block_range(block)
        self._fill(target, first)
        if crc32(target) != self._record.crc32[block]:
            raise DamagedCheckpointError(
                self.path, f"bytes [{first}, {last}) do not match their checksum"
            )
        self._verified[block] = 1

    def _fill(self, target: memoryview, offset: int) -> None:
        with reading(self.path):
            if self._fd is None:
                self._fd = self._files.open(self.path)
            num_read = self._files.read_all(self._fd, target, offset)
        if num_read < len(target):
            raise DamagedCheckpointError(
                self.path,
                f"bytes [{offset + num_read}, {offset + len(target)}) are missing: it was cut off",
            )
