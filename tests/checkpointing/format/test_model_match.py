import pytest

from checkpointing import ModelMismatchError, TensorSpec, require_match


def spec(fqn, key="fp32", shape=(4,), dtype="F32"):
    return TensorSpec(fqn=fqn, key=key, shape=shape, dtype=dtype)


def mismatch(expected, found):
    with pytest.raises(ModelMismatchError) as caught:
        require_match(expected, found, where="step-400")
    return str(caught.value).splitlines()


def test_order_does_not_matter():
    require_match([spec("a"), spec("b")], [spec("b"), spec("a")], where="step-400")


@pytest.mark.parametrize(
    ("expected", "found", "line"),
    [
        ([spec("a")], [], "a (fp32) is in the model, but not in step-400."),
        ([], [spec("a")], "a (fp32) is in step-400, but not in the model."),
        (
            [spec("a", shape=(2, 3))],
            [spec("a", shape=(3, 2))],
            "a (fp32) is (2, 3) in the model and (3, 2) in step-400.",
        ),
        (
            [spec("a")],
            [spec("a", dtype="BF16")],
            "a (fp32) is F32 in the model and BF16 in step-400.",
        ),
        (
            [spec("a"), spec("a", "exp_avg")],
            [],
            "a (fp32, exp_avg) is in the model, but not in step-400.",
        ),
    ],
)
def test_one_line_per_difference(expected, found, line):
    assert mismatch(expected, found) == [line, "Is this the same model config?"]


def test_many_differences_are_counted():
    lines = mismatch([spec(f"p{i}") for i in range(13)], [])
    assert len(lines) == 12
    assert lines[10] == "and 3 more"
