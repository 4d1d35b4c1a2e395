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
