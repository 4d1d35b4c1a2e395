"""Which DeepSpeed is taken, and what is said of another."""

from __future__ import annotations

import pytest

from strategies import ConfigError
from strategies.parallel.auto.choose import not_installed
from strategies.parallel.zero.required import installed, require, trouble


@pytest.mark.parametrize(
    "version", ["0.19.8", "0.19.8+unknown", "0.19.8.post1", "0.19.10", "0.20", "1.0.0rc1", ""]
)
def test_a_release_that_is_taken(version: str) -> None:
    assert trouble(version) is None


@pytest.mark.parametrize(
    "version", ["0.19.7", "0.19.7+abc", "0.19.8rc1", "0.19.8.dev0", "0.18.9", "0.19", "0.9.10"]
)
def test_a_release_that_is_refused(version: str) -> None:
    why = trouble(version)
    assert why is not None
    assert why.startswith(f"{version} is installed")


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_a_zero_strategy_without_deepspeed_says_what_to_install(strategy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require(strategy, None)
    assert str(caught.value) == (
        f"strategy={strategy} needs DeepSpeed 0.19.8 or newer; it is not installed. "
        "pip install 'deepspeed>=0.19.8' (or 'relaunch[zero]'), or use --strategy fsdp."
    )


@pytest.mark.parametrize("strategy", ["auto", "single", "ddp", "fsdp", "accelerate"])
def test_no_other_strategy_needs_it(strategy: str) -> None:
    require(strategy, None)


def test_the_tested_version_is_installed() -> None:
    version = installed()
    assert version is not None
    assert trouble(version) is None


@pytest.mark.parametrize(
    ("troubles", "sentence"),
    [
        ([None, None], None),
        (
            ["it is not installed"] * 2,
            "it needs DeepSpeed 0.19.8 or newer; it is not installed",
        ),
        (
            [None, "it is not installed"],
            "it needs DeepSpeed 0.19.8 or newer; it is not installed on rank 1",
        ),
    ],
)
def test_auto_does_not_count_what_a_rank_lacks(
    troubles: list[str | None], sentence: str | None
) -> None:
    expected = {} if sentence is None else dict.fromkeys(("zero1", "zero2", "zero3"), sentence)
    assert not_installed(troubles) == expected
