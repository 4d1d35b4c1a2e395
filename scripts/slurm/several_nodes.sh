#!/bin/bash
#SBATCH --job-name=train
#SBATCH --nodes=4
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
# One task a node: relaunch starts the ranks of a node itself.
#SBATCH --ntasks-per-node=1
# After a preemption or the time limit the same job resumes, in the same log.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
# Two minutes before the time limit all ranks are asked to save and exit.
#SBATCH --signal=USR1@120

# In a container: install relaunch here and in the image, and put before the script
#     --container "apptainer exec --nv image.sif"
exec relaunch --strategy fsdp train.py
