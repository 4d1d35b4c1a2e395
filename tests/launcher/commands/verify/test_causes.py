"""From fingerprints to causes: one row for each usual mistake."""

import string
from typing import Any

import pytest

from launcher.commands.verify.causes import Cause, Seen, cause_of

C = Cause
TABLE: list[tuple[dict[str, Any], Cause]] = [
    ({"samples_differ": True, "data_differs": True, "loss_differs": True}, C.PER_DEVICE_BATCH),
    ({"rate_differs": True, "weights_differ_after": True}, C.RATE_BY_RANKS),
    ({"probe_differs_by_rank": True, "data_differs": True}, C.DATA_BY_RANK),
    ({"reads_differ": True, "probe_differs_by_rank": True, "data_differs": True}, C.AUGMENTATION),
    ({"data_differs": True, "loss_differs": True}, C.AUGMENTATION),
    ({"weights_differ": True, "loss_differs": True}, C.WEIGHTS_BY_RANK),
    ({"loss_differs": True, "buffers_differ": True}, C.MOVED_BUFFER),
    ({"buffers_differ": True}, C.MOVED_BUFFER),
    ({"loss_differs": True, "weights_differ_after": True}, C.RANDOM_OUTSIDE),
    ({"loss_differs": True, "first_loss_differs": True}, C.LOSS_BY_RANK),
    ({"counts_differ": True}, C.COUNT_BY_RANK),
    ({"warned_of_collective": True, "loss_differs": True}, C.OWN_COLLECTIVE),
    ({"warned_of_wrapper": True, "gradient_factor": 0.7}, C.AROUND_WRAPPER),
    ({"gradient_factor": 0.5, "ranks": 2}, C.DIVIDED_GRADIENT),
    ({"gradient_factor": 3.0, "ranks": 3}, C.DIVIDED_GRADIENT),
    ({"gradient_factor": 0.7, "ranks": 2}, C.OTHER_GRADIENT),
    (
        {
            "gradient_factor": 1.0,
            "weights_differ_after": True,
            "is_sharded": True,
            "ddp_is_equal": True,
        },
        C.NON_ELEMENTWISE,
    ),
    ({"gradient_factor": 1.0, "weights_differ_after": True, "is_sharded": True}, C.UPDATE_BESIDE),
    ({"weights_differ_after": True}, C.UPDATE_BESIDE),
    ({"num_writers": 2}, C.FILE_BY_ALL_RANKS),
    ({}, C.UNKNOWN),
    ({"repeat_differs": True, "repeat_differs_hashed": False}, C.HASH_ORDER),
    ({"repeat_differs": True, "repeat_data_differs": True, "reads_differ": True}, C.TIME_SEED),
    ({"repeat_differs": True, "repeat_weights_differ": True}, C.TIME_SEED),
    ({"repeat_differs": True, "repeat_loss_differs": True}, C.TIME_SEED),
    (
        {
            "repeat_differs": True,
            "repeat_differs_hashed": True,
            "repeat_differs_deterministic": False,
        },
        C.NONDETERMINISTIC_KERNELS,
    ),
    ({"repeat_differs": True}, C.UNKNOWN_NONDETERMINISM),
]
OF_RESUME: list[tuple[dict[str, Any], Cause]] = [
    ({"notice_code": 1, "loss_differs": True}, C.NOTICE_NOT_TAKEN),
    ({"differs_at_save": True, "weights_differ_after": True}, C.WEIGHTS_AT_SAVE),
    ({"data_differs": True}, C.DATA_AFTER_RESUME),
    ({"loss_differs": True}, C.STATE_OUTSIDE),
    ({"weights_differ_after": True, "ends_differ": True}, C.STATE_OUTSIDE),
    ({"rate_differs": True}, C.STATE_OUTSIDE),
    ({"ends_differ": True}, C.PATIENCE_OUTSIDE),
]


@pytest.mark.parametrize(("seen", "cause"), TABLE)
def test_fingerprint_of_ranks(seen: dict[str, Any], cause: Cause) -> None:
    assert cause_of(Seen(**seen)) is cause


@pytest.mark.parametrize(("seen", "cause"), OF_RESUME)
def test_fingerprint_of_a_resume(seen: dict[str, Any], cause: Cause) -> None:
    assert cause_of(Seen(is_resume=True, **seen)) is cause


def test_each_cause_has_a_fingerprint_and_a_remedy() -> None:
    assert {cause for _, cause in (*TABLE, *OF_RESUME)} == set(Cause)
    filled = {"samples", "other_samples", "first", "other", "rate", "other_rate"}
    filled |= {"factor", "code", "end", "other_end", "file"}
    for cause in Cause:
        names = {name for _, name, _, _ in string.Formatter().parse(cause.what) if name}
        assert names <= filled
        assert cause.remedy.endswith(".") or cause.remedy.endswith("`.")
