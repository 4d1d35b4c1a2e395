"""What a loop that works needs to become resumable: four lines, counted in the example itself."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TO_REACH = 4


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_the_example_has_four_lines_more_than_the_plain_loop() -> None:
    page = (ROOT / "docs" / "own_loop.md").read_text()
    before, after = (lines_of(b) for b in re.findall(r"```python\n(.*?)```", page, re.S)[:2])
    script = lines_of((ROOT / "scripts" / "own_loop_digits.py").read_text())
    begin = script.index(after[0])
    assert script[begin : begin + len(after)] == after, "the page shows another loop"
    added = [line for line in after if line not in before]
    added += [line for line in script if "import Resumable" in line]
    assert 0 < len(added) <= TO_REACH, added
    assert not [line for line in script if "Resumable" in line and line not in added]
