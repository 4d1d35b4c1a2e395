"""Numbers that must be the same on every rank, compared by sums alone. Pure.

All s are equal exactly when (sum s)^2 == W * sum s^2 (Cauchy and Schwarz).
"""


def summands(number: float) -> list[float]:
    """Return what each rank gives to the sums: its number, and the number's square.

    `number` is whole, and so small that W times its square is exact in float64.
    """
    return [float(number), float(number) ** 2]


def all_equal(total: float, squares: float, world_size: int) -> bool:
    """Tell from the two sums whether all ranks gave the same number."""
    return total * total == world_size * squares
