"""What ends a loop that is not ours, and with which code."""

import pytest

from launcher.run_folder.lock import FolderTakenError, FolderUnavailableError
from launcher.training.own_loop.start import refuse_options_of_run, sentence_of
from strategies import ConfigError, StrategyError


@pytest.mark.parametrize(
    ("error", "has_trained", "code"),
    [
        (ConfigError("a"), False, 2),
        (ConfigError("a"), True, 1),
        (StrategyError("a"), False, 1),
        (FolderTakenError("a"), True, 93),
        (FolderUnavailableError("a", may_pass=True), False, 75),
        (FolderUnavailableError("a", may_pass=False), False, 2),
    ],
)
def test_our_own_errors_end_with_a_sentence(error: Exception, has_trained: bool, code: int) -> None:
    assert sentence_of(error, has_trained=has_trained) == ("a", code)


def test_an_error_of_the_script_is_its_own() -> None:
    assert sentence_of(ValueError("theirs")) is None


@pytest.mark.parametrize(
    ("strategy", "precision", "word"), [("fsdp", None, "--strategy"), (None, "bf16", "--precision")]
)
def test_what_the_script_decides_is_not_asked_for(
    strategy: str | None, precision: str | None, word: str
) -> None:
    with pytest.raises(ConfigError, match=word):
        refuse_options_of_run(strategy, precision, "ddp")
    refuse_options_of_run("ddp", None, "ddp")
