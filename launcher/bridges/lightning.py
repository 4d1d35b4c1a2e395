"""Lightning's Trainer."""


class RelaunchLightning:
    """Not there yet."""
