"""README.zh-CN.md says the same as README.md: the same commands, tables, figures and names.

After a change of README.md: copy its code blocks, translate the sentences and the tables' words.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
CODE = re.compile(r"```.*?```|(?<=\n\n)(?: {4}[^\n]*\n(?:\n(?= {4}))?)+", re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
EACH_OTHER = {"README.md", "README.zh-CN.md"}


def prose(text: str) -> str:
    return CODE.sub("", text)


def spans(text: str) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def tables(text: str) -> list[list[str]]:
    found = re.findall(r"(?:^\|.*\n)+", prose(text), re.MULTILINE)
    return [table.splitlines() for table in found]


def numbers(text: str) -> Counter[str]:
    return Counter(NUMBER.findall(re.sub(r"`[^`]*`", "", text)))


def test_the_code_is_the_same() -> None:
    assert CODE.findall(CHINESE) == CODE.findall(ENGLISH)
    assert len(CODE.findall(ENGLISH)) > 5


def test_the_tables_have_the_same_rows_names_and_figures() -> None:
    mine, theirs = tables(CHINESE), tables(ENGLISH)
    assert [len(table) for table in mine] == [len(table) for table in theirs]
    for one, other in zip(mine, theirs, strict=True):
        for mine_row, their_row in zip(one, other, strict=True):
            assert spans(mine_row) == spans(their_row)
            assert numbers(mine_row) == numbers(their_row), their_row


@pytest.mark.parametrize("mark", ["## ", "- "])
def test_the_parts_are_the_same(mark: str) -> None:
    def count(text: str) -> int:
        return len(re.findall(rf"^{mark}", prose(text), re.MULTILINE))

    assert count(CHINESE) == count(ENGLISH) > 3


def test_the_sentences_name_the_same_things_and_figures() -> None:
    assert set(spans(prose(CHINESE))) - EACH_OTHER == set(spans(prose(ENGLISH))) - EACH_OTHER
    assert numbers(prose(CHINESE)) == numbers(prose(ENGLISH))
