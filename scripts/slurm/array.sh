#!/bin/bash
#SBATCH --job-name=train
#SBATCH --array=0-3
#SBATCH --gpus-per-node=1
#SBATCH --time=4:00:00
# One task a node: relaunch starts the ranks of a node itself.
#SBATCH --ntasks-per-node=1
# After a preemption or the time limit the same job resumes, in the same log.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.out
# Two minutes before the time limit all ranks are asked to save and exit.
#SBATCH --signal=USR1@120

# In a container: install relaunch here and in the image, and put before the script
#     --container "apptainer exec --nv image.sif"
exec relaunch --run-dir runs/train/"$SLURM_ARRAY_TASK_ID" train.py --seed "$SLURM_ARRAY_TASK_ID"
