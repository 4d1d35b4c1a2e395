r"""Nobody's text moves a terminal, fakes a line or writes markup."""

import pytest

from launcher.terminal.console import say
from launcher.terminal.printable import (
    markdown,
    markdown_start,
    printable,
    printable_lines,
    printable_values,
)
from launcher.training.rank_console import RankConsole


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("val/loss", "val/loss"),
        ("", ""),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x7f \x9b31m \x85", r"\x7f \x9b31m \x85"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("abc\u202etxt\u2066", r"abc\u202etxt\u2066"),
        ("\udc80\ud800", r"\udc80\ud800"),
        ("Größe 精度\u3000é\u00a0", "Größe 精度\u3000é\u00a0"),
        (
            "\U0001f469\u200d\U0001f680 \u06cc\u200c\u062e",
            "\U0001f469\u200d\U0001f680 \u06cc\u200c\u062e",
        ),
    ],
)
def test_one_line_without_controls(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown
    shown.encode()


def test_several_lines_stay_several():
    assert printable_lines("a\x1b\nb\r\nc\rd\n") == "a\\x1b\nb\nc\\rd\n"


def test_every_text_of_json_and_every_name():
    assert printable_values({"a\n": ["\x1b", 1, None, {"b": "c\r"}], "d": 0.5, "e": True}) == {
        r"a\n": [r"\x1b", 1, None, {"b": r"c\r"}],
        "d": 0.5,
        "e": True,
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("val_loss 0.5", "val_loss 0.5"),
        ("![x](http://h/p.png)", r"!\[x\](http://h/p.png)"),
        (r"\[x](http://h)", r"\\\[x\](http://h)"),
        ("<img src=x>", "&lt;img src=x>"),
        ("`a` *b* &lt;", r"\`a\` \*b\* \&lt;"),
        ("a & b; c", "a & b; c"),
        ("a\n# b", r"a\\n# b"),
        ("a\\", r"a\\"),
    ],
)
def test_no_markup(text, shown):
    assert markdown(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# heading", r"\# heading"),
        ("> said", r"\> said"),
        ("  - entry", r"  \- entry"),
        ("---", r"\---"),
        ("===", r"\==="),
        ("~~~", r"\~~~"),
        ("12. entry", r"12\. entry"),
        ("3) entry", r"3\) entry"),
        ("0.5 was less", "0.5 was less"),
        ("-0.5", "-0.5"),
        ("a # b", "a # b"),
        ("", ""),
    ],
)
def test_no_heading_and_no_list_at_the_start_of_a_line(text, shown):
    assert markdown_start(text) == shown


def test_what_the_launcher_and_a_rank_say(capfd):
    say("error: tensor \x1b[2Jx\nsecond")
    RankConsole(is_heard=True).warn("refused: a\x1b[31m\nsecond")
    written = capfd.readouterr().err
    assert written == (
        "relaunch: error: tensor \\x1b[2Jx\nrelaunch: second\n"
        "relaunch: warning: refused: a\\x1b[31m\nrelaunch: second\n"
    )
