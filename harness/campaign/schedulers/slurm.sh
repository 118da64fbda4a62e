#!/bin/bash
# A campaign of 100 shards as a Slurm job array. Its arguments are those of harness:
#
#     sbatch --wait slurm.sh sim --seeds 0..100000
#     harness merge campaign
#
# sbatch --wait ends with the greatest exit status of the shards. The directory must be one that all machines share.
#SBATCH --job-name=harness
#SBATCH --array=1-100
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.out

# Slurm says which shard this is: SLURM_ARRAY_TASK_ID.
"${HARNESS:-harness}" "$@" --campaign "${CAMPAIGN:-campaign}"
status=$?

# 75: this machine failed the shard. 137: it was killed, as the kernel does where memory is short. 143: SIGTERM, as
# before a preemption, which sim and check do not catch. Slurm starts it again, perhaps elsewhere; a shard that is there
# is not repeated.
if [ "$status" = 75 ] || [ "$status" = 137 ] || [ "$status" = 143 ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt 3 ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$status"
