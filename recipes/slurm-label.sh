#!/bin/sh
# Label a manifest with a Slurm array: one GPU a task, every task its share of the shards.
#
#   MANIFEST=/shared/train.jsonl TEACHER=/shared/whisper-large-v2 OUT=/shared/runs/big/labels \
#       recipes/slurm-label.sh 8
#
# All paths are on a file system that every node sees. Tasks may be killed, requeued, or submitted
# again in another number: each makes only what is missing of its share. The last job, which starts
# when all tasks have ended, makes what is still missing, and fails if an utterance has no label.
set -eu

n_parts=${1:?how many tasks: recipes/slurm-label.sh N}
: "${MANIFEST:?a .jsonl file, or a folder of shards}" "${TEACHER:?a model folder}" "${OUT:?a folder}"
label="distilwhisper label '$MANIFEST' --teacher '$TEACHER' --out '$OUT' ${OPTIONS:-}"

array=$(sbatch --parsable --job-name=label --gres=gpu:1 --cpus-per-task=8 --requeue \
    --array="0-$((n_parts - 1))" --wrap "$label --shards \$SLURM_ARRAY_TASK_ID/$n_parts")
sbatch --job-name=label-rest --gres=gpu:1 --cpus-per-task=8 --dependency="afterany:$array" \
    --wrap "$label"
