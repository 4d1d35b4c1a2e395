"""What DeepSpeed is asked for, without DeepSpeed."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from strategies.parallel.zero.start.engine_config import engine_config, tell_free_memory


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


@pytest.mark.parametrize("visible", ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-c6d4f1ef"])
def test_gpus_may_be_named_where_nvml_is_there(
    monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    kind: Any = pytest.importorskip("deepspeed.accelerator.cuda_accelerator")
    ours: Any = pytest.importorskip("deepspeed.accelerator.real_accelerator")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(kind, "pynvml", SimpleNamespace(nvmlDeviceGetHandleByIndex=int))
    monkeypatch.setattr(ours, "ds_accelerator", kind.CUDA_Accelerator())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (device.index + 5, 9))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with pytest.raises(ValueError, match="invalid literal for int"):
        ours.ds_accelerator.available_memory()
    tell_free_memory(torch.device("cuda", 3))
    assert ours.ds_accelerator.available_memory() == 8
