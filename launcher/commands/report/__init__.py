"""`relaunch report RUN ...`: what happened in a run, as a page and a picture.

Nothing here imports torch; matplotlib is imported only to draw.
"""

from .command import run as run

__all__ = ["run"]
