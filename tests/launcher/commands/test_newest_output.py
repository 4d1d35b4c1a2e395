"""The newest line of a script that reports no steps."""

from pathlib import Path

import pytest

from launcher.commands.watch.output import NewestLine, newest_line, newest_log


@pytest.mark.parametrize(
    ("block", "line"),
    [
        (b"one\ntwo\n", "two"),
        (b"one\n\n  \n", "one"),
        (b" 10%|#  |\r 20%|## |\r", "20%|## |"),
        (b"\xff\xfe broken\n", "\N{REPLACEMENT CHARACTER}" * 2 + " broken"),
        (b"\x1b[2Jhidden\n", "\\x1b[2Jhidden"),
        (b"", None),
    ],
)
def test_the_newest_line(block: bytes, line: str | None) -> None:
    assert newest_line(block) == line


def test_the_newest_attempt_by_its_number() -> None:
    paths = [Path(f"logs/attempt-{name}/rank-0.log") for name in ("9", "10", "old")]
    assert newest_log(paths) == paths[1]
    assert newest_log([]) is None


def test_a_line_is_shown_once(tmp_path: Path) -> None:
    newest = NewestLine(tmp_path)
    assert newest.news() is None
    log = tmp_path / "logs" / "attempt-1" / "rank-0.log"
    log.parent.mkdir(parents=True)
    log.write_text("step 1\n")
    assert newest.news() == "rank 0: step 1"
    assert newest.news() is None
    log.write_text("step 1\nstep 2\n")
    assert newest.news() == "rank 0: step 2"
