#!/bin/bash
# A Ray cluster inside a Slurm allocation, one worker a GPU: sbatch slurm.sh 'videos/*.mp4' results/
# Its syntax is checked by a test; it was not run under Slurm.
#SBATCH --job-name=ivggt
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
set -euo pipefail

sources=$1
out=$2
port=6379
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # which srun does not inherit
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | cut -d' ' -f1):$port

srun --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --port="$port" --block &
sleep 20
if ((SLURM_NNODES > 1)); then
    srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$head" ray start --address="$address" --block &
    sleep 20
fi

# Submitted again, the job does what is missing.
RAY_ADDRESS=$address ivggt batch "$sources" --out "$out" --ray "$address" --workers $((8 * SLURM_NNODES)) --gpus 1
