"""What DeepSpeed is asked for, without DeepSpeed."""

import pytest

from strategies.parallel.zero.start.engine_config import engine_config


@pytest.mark.parametrize(
    ("stage", "offload", "offloaded"),
    [
        (1, False, set()),
        (1, True, {"offload_optimizer"}),
        (2, True, {"offload_optimizer"}),
        (3, True, {"offload_optimizer", "offload_param"}),
    ],
)
def test_what_is_offloaded(stage: int, offload: bool, offloaded: set[str]) -> None:
    config = engine_config(stage=stage, precision="fp32", device_type="cuda", offload=offload)
    zero = config["zero_optimization"]
    assert {key for key in zero if key.startswith("offload_")} == offloaded
    assert all(zero[key] == {"device": "cpu", "pin_memory": True} for key in offloaded)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_gradients_are_added_in_fp32_and_clipped_by_nobody_else(stage: int, precision: str) -> None:
    config = engine_config(stage=stage, precision=precision, device_type="cpu", offload=False)
    assert config["communication_data_type"] == "fp32"
    assert config["gradient_clipping"] == 0.0
    # Stage 1 would build another optimizer if it were asked here; stage 3 only knows the mean.
    assert ("data_types" in config) == (stage > 1)
    assert ("gradient_allreduce_op" in config) == (stage < 3)
    assert {"bf16", "fp16"} & config.keys() == {precision} - {"fp32"}


def test_with_exact_sums_its_own_bucket_is_small_and_linear_layers_are_torchs() -> None:
    config = engine_config(stage=3, precision="fp32", device_type="cuda", offload=False, exact=True)
    assert config["zero_optimization"]["reduce_bucket_size"] == 4096
    assert not config["zero_optimization"]["memory_efficient_linear"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_no_timer_waits_for_the_device(stage: int) -> None:
    """DeepSpeed's timer of throughput would, in each forward, also of an evaluation."""
    config = engine_config(stage=stage, precision="bf16", device_type="cuda", offload=False)
    timers = pytest.importorskip("deepspeed.utils.config").get_timers_config(config)
    assert not timers.enabled
