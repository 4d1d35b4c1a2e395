"""Running inside Slurm: what the allocation says, the batch step, requeues; no torch, no numpy.

The batch script says `exec relaunch train.py`. That process (`outer`) starts one agent a node with
srun. When all of them have left it asks Slurm what happened (`scontrol`, `job_facts`), decides
(`verdict`) and acts (`requeue`).
"""
