"""What of DeepSpeed's checkpoints is refused: tensor parallelism, padded and cut frozen ones."""

from collections import OrderedDict

import pytest
import torch

from checkpointing import open_foreign

MODEL, OPTIMIZER = "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"


def save(folder, *, model=(MODEL,), optimizer=OPTIMIZER, numel=6, stage=1, ranks=1, **more):
    folder.mkdir(parents=True)
    shapes = [OrderedDict(w=torch.Size([2, 3]))]
    for name in model:
        torch.save({"param_shapes": shapes, "module": {}, **more}, folder / name)
    flat = torch.arange(float(numel))
    state = {
        "zero_stage": stage,
        "partition_count": ranks,
        "single_partition_of_fp32_groups": [flat],
        "fp32_flat_groups": [flat],
        "base_optimizer_state": {"state": {0: {"exp_avg": flat}}},
        "optimizer_state_dict": {"state": {0: {"exp_avg": flat}}},
    }
    torch.save({"optimizer_state_dict": state}, folder / optimizer)
    return folder


@pytest.mark.parametrize("numel", [6, 8])  # of two elements a rank is the alignment of a group
def test_what_is_not_padded_is_read(tmp_path, numel):
    source = open_foreign(save(tmp_path / "ds", numel=numel))
    with source.opened:
        found = {(one.spec.fqn, one.spec.shape): one.read().tolist() for one in source.tensors}
    assert found == {("w", (2, 3)): [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"numel": 16}, "group 0 has 16 elements for 6 .* padded parameters cannot be imported"),
        ({"numel": 4, "stage": 3}, "group 0 is smaller than its parameters"),
        (
            {"optimizer": "zero_pp_rank_0_mp_rank_01_optim_states.pt"},
            "mp_rank_01_optim_states.pt is of tensor parallelism, which cannot be imported",
        ),
        (
            {"model": (MODEL, "mp_rank_01_model_states.pt")},
            "mp_rank_01_model_states.pt is of tensor parallelism, which cannot be imported",
        ),
        (
            {
                "model": tuple(f"zero_pp_rank_{r}_mp_rank_00_model_states.pt" for r in (0, 1)),
                "stage": 3,
                "frozen_param_shapes": {"f": torch.Size([2])},
            },
            "f is frozen and cut among the ranks of ZeRO-3: convert the checkpoint to a universal",
        ),
    ],
    ids=["padded", "smaller", "optimizer of tensor parallelism", "model of the same", "frozen"],
)
def test_what_is_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        open_foreign(save(tmp_path / "ds", **given))


def test_a_step_that_not_all_ranks_have_saved(tmp_path):
    """DeepSpeed's `latest` may name one; an older step can be imported by its own folder."""
    save(tmp_path / "out" / "two")
    save(tmp_path / "out" / "four", ranks=2)
    (tmp_path / "out" / "latest").write_text("four")
    message = (
        "four: has the optimizer's state of 1 ranks out of 2.*Give the folder of an older step"
    )
    with pytest.raises(ValueError, match=message):
        open_foreign(tmp_path / "out")
    with open_foreign(tmp_path / "out" / "two").opened as opened:
        assert opened is not None
