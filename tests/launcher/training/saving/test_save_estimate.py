"""How long the first save will take."""

from pathlib import Path

import pytest

from launcher.training.saving.save_estimate import (
    OVERHEAD_S,
    PROBE_BYTES,
    estimated_save_s,
    measured_bytes_per_s,
)


def test_the_time_grows_with_the_size() -> None:
    assert estimated_save_s(0, 1e6) == OVERHEAD_S
    assert estimated_save_s(3_000_000, 1e6) == pytest.approx(3.0 + OVERHEAD_S)


def test_a_measured_write_leaves_nothing_behind(tmp_path: Path) -> None:
    times = iter((10.0, 12.0))
    assert measured_bytes_per_s(tmp_path, clock=lambda: next(times)) == PROBE_BYTES / 2
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        measured_bytes_per_s(tmp_path / "missing")
