"""What the command line asks of a model is refused where a framework decides it."""

import pytest

from launcher.bridges.rank_notices import refused_options_text
from launcher.contract.run_options import RunOptions


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (RunOptions(strategy="fsdp", exact=True), "--strategy fsdp, --exact was given"),
        (RunOptions(checkpoints="s3://b/c"), "--checkpoints s3://b/c was given"),
    ],
)
def test_the_options_are_named(asked: RunOptions, named: str) -> None:
    text = refused_options_text(asked)
    assert text is not None
    assert text.startswith(named)


def test_the_run_folder_may_be_given() -> None:
    assert refused_options_text(RunOptions()) is None
