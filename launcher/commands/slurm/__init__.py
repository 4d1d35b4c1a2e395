"""`relaunch slurm`: write a batch script and submit it."""
