"""What ends a loop that is not ours, and with which code."""

import pytest

from launcher.contract.run_options import RunOptions
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
    ("asked", "word"),
    [
        (RunOptions(strategy="fsdp"), "--strategy fsdp was given"),
        (RunOptions(strategy="ddp", precision="bf16"), "--precision bf16 was given"),
        (RunOptions(exact=True, shard_blocks="a.*"), r"--shard-blocks a\.\*, --exact was given"),
        (RunOptions(hybrid_shard=True), "--hybrid-shard was given"),
    ],
)
def test_what_the_script_decides_is_not_asked_for(asked: RunOptions, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        refuse_options_of_run(asked, "ddp")
    refuse_options_of_run(RunOptions(strategy="ddp", checkpoints="/elsewhere"), "ddp")
