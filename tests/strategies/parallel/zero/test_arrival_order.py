"""Gradients are handed to DeepSpeed's buckets in one order."""

from torch import nn

from strategies.parallel.zero.arrival_order import ArrivalOrder


class Recorded:
    """Stands for DeepSpeed's optimizer."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.names = {id(p): name for name, p in zip("abc", parameters, strict=True)}
        self.seen: list[str] = []

    def reduce_ready_partitions_and_remove_grads(self, parameter: nn.Parameter, _: int) -> None:
        self.seen.append(self.names[id(parameter)])

    def independent_gradient_partition_epilogue(self) -> None:
        self.seen.append("end")


def test_any_order_of_arrival_becomes_that_of_the_model_reversed() -> None:
    a, b, c = parameters = [nn.Parameter() for _ in range(3)]
    zero = Recorded(parameters)
    order = ArrivalOrder(zero, parameters)
    for came in ([c, b, a], [a, c, b], [b, a, c]):
        order.begin()
        zero.seen.clear()
        for one in came:
            zero.reduce_ready_partitions_and_remove_grads(one, 0)
        zero.independent_gradient_partition_epilogue()
        assert zero.seen == ["c", "b", "a", "end"]


def test_each_is_handed_over_once_those_before_it_have_come() -> None:
    a, b, c = parameters = [nn.Parameter() for _ in range(3)]
    zero = Recorded(parameters)
    ArrivalOrder(zero, parameters)
    zero.reduce_ready_partitions_and_remove_grads(c, 0)
    assert zero.seen == ["c"]
    zero.reduce_ready_partitions_and_remove_grads(a, 0)
    assert zero.seen == ["c"]
    zero.reduce_ready_partitions_and_remove_grads(b, 0)
    assert zero.seen == ["c", "b", "a"]


def test_what_does_not_come_keeps_nothing_back_and_what_is_frozen_is_not_waited_for() -> None:
    a, b, c = parameters = [nn.Parameter() for _ in range(3)]
    zero = Recorded(parameters)
    order = ArrivalOrder(zero, parameters)
    zero.reduce_ready_partitions_and_remove_grads(a, 0)
    zero.reduce_ready_partitions_and_remove_grads(b, 0)
    zero.independent_gradient_partition_epilogue()
    assert zero.seen == ["b", "a", "end"]
    zero.seen.clear()
    order.begin()
    c.requires_grad_(False)
    zero.reduce_ready_partitions_and_remove_grads(b, 0)
    assert zero.seen == ["b"]


def test_a_backward_that_was_broken_off_leaves_nothing() -> None:
    a, b, c = parameters = [nn.Parameter() for _ in range(3)]
    zero = Recorded(parameters)
    order = ArrivalOrder(zero, parameters)
    zero.reduce_ready_partitions_and_remove_grads(b, 0)
    order.begin()
    for one in (c, a):
        zero.reduce_ready_partitions_and_remove_grads(one, 0)
    assert zero.seen == ["c"]
