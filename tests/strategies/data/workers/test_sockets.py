"""A folder for temporary files whose path is too long for a socket is refused before it is used."""

import subprocess
import sys
from pathlib import Path

import pytest

from strategies.data.workers.sockets import require_sockets

CODE = "from strategies.data.workers.sockets import require_sockets; require_sockets(2)"


def test_the_usual_folder_will_do() -> None:
    require_sockets(2)


@pytest.mark.parametrize(("length", "refused"), [(60, False), (90, True)])
def test_paths_of_temporary_files(length: int, refused: bool) -> None:
    folder = Path("/tmp") / ("x" * (length - len("/tmp/")))
    folder.mkdir(exist_ok=True)
    try:
        done = subprocess.run(
            [sys.executable, "-c", CODE],
            env={"TMPDIR": str(folder), "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert (done.returncode != 0) is refused, done.stderr
        if refused:
            assert "has 90 characters, and about 70 fit. Set TMPDIR" in done.stderr
        assert not list(folder.iterdir())
    finally:
        for left in folder.rglob("*"):
            left.rmdir() if left.is_dir() else left.unlink()
        folder.rmdir()


def test_without_workers_nothing_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategies.data.workers.sockets.Listener", None)
    require_sockets(0)
