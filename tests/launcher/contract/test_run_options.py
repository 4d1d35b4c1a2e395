"""What the command line asks of a run, on its way to the ranks."""

from dataclasses import fields
from pathlib import Path

from launcher.command_line.option_table import OWN_OPTIONS
from launcher.contract.run_options import FLAGS, NAMES, RunOptions

ALL = RunOptions(
    strategy="fsdp",
    precision="bf16",
    shard_blocks="layers.*",
    hybrid_shard=True,
    exact=True,
    run_dir=Path("/runs/one"),
    checkpoints="s3://bucket/one",
)


def test_each_field_differs_from_its_default_here() -> None:
    assert [one.name for one in fields(RunOptions) if getattr(ALL, one.name) == one.default] == []


def test_all_of_it_is_read_back() -> None:
    assert RunOptions.from_environ(ALL.to_environ()) == ALL


def test_what_is_not_asked_sets_no_variable() -> None:
    assert RunOptions().to_environ() == {}
    assert RunOptions.from_environ({"RELAUNCH_STRATEGY": "", "RELAUNCH_HYBRID_SHARD": ""}) == (
        RunOptions()
    )


def test_each_field_is_an_option_of_the_command_line() -> None:
    table = {option.name: option for option in OWN_OPTIONS}
    for name in NAMES:
        option = table[f"--{name.replace('_', '-')}"]
        assert (option.value is None) == (name in FLAGS)
