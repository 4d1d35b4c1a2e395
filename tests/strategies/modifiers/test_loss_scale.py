import pytest
import torch
import torch.nn.functional as F

from strategies.modifiers.loss_scale import MIN_SCALE, LossScale


def test_it_halves_on_overflow_and_doubles_after_clean_steps() -> None:
    scale = LossScale(scale=8.0, growth_interval=3, dynamic=True)
    scale = scale.after(finite=False)
    assert (scale.scale, scale.clean_steps) == (4.0, 0)
    for _ in range(2):
        scale = scale.after(finite=True)
    assert (scale.scale, scale.clean_steps) == (4.0, 2)
    scale = scale.after(finite=True)
    assert (scale.scale, scale.clean_steps) == (8.0, 0)


@pytest.mark.parametrize(
    ("counted", "scale"),
    [
        (0.0, 2.0**16),
        (1.0, 2.0**16),
        (16.0, 2.0**12),
        (20.0, 2.0**11),
        (16384.0, 4.0),
        (1e12, MIN_SCALE),
    ],
)
def test_it_starts_at_what_is_made_for_means(counted: float, scale: float) -> None:
    assert LossScale.for_fp16().for_sums(counted).scale == scale
    assert LossScale().for_sums(counted) == LossScale()


def test_a_first_step_of_many_tokens_does_not_overflow() -> None:
    """What the logits' gradient holds in fp16 is p - y times the scale; 65,504 is the most."""
    logits = torch.randn(16384, 8, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    targets = torch.zeros(16384, dtype=torch.int64)
    for scale, is_finite in (
        (LossScale.for_fp16(), False),
        (LossScale.for_fp16().for_sums(16384), True),
    ):
        loss = F.cross_entropy(logits, targets, reduction="sum")
        (gradient,) = torch.autograd.grad(loss * scale.scale, logits)
        # The bias sums them up over the tokens.
        assert bool(gradient.half().sum(0).isfinite().all()) == is_finite


def test_it_has_a_floor() -> None:
    scale = LossScale.for_fp16()
    for _ in range(100):
        scale = scale.after(finite=False)
    assert scale.scale == MIN_SCALE


def test_without_fp16_it_never_moves() -> None:
    assert LossScale().after(finite=False) == LossScale()


def test_counters_survive_a_checkpoint() -> None:
    scale = LossScale.for_fp16().after(finite=False).after(finite=True)
    assert LossScale.for_fp16().restored(scale.to_json()) == scale


def test_a_resume_in_another_precision_keeps_its_own_scale() -> None:
    assert LossScale().restored({"scale": 512.0, "clean_steps": 7}) == LossScale()
    assert LossScale.for_fp16().restored(LossScale().to_json()) == LossScale.for_fp16()
