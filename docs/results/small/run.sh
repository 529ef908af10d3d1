#!/bin/sh
# All that is beside this file, from the folder that holds small.toml, trained.toml, data/ and whisper-base-2/:
#   PYTHONPATH=CHECKOUT sh run.sh [NAME...]
# What was measured before is not measured again.
set -e

results() {  # NAME [SETTING...]: models as they are
    name=$1; shift
    measure "$name" results small.toml "$@"
}

trained() {  # NAME [SETTING...]: what trains students first
    name=$1; shift
    measure "$name" trained trained.toml "$@"
}

measure() {
    case " $WANTED " in *" all "* | *" $1 "*) ;; *) return 0 ;; esac
    name=$1; out=$2; settings=$3; shift 3
    ${PYTHON:-python} -m experiments "$name" --out "$out" --settings "$settings" "$@" || [ $? -eq 1 ]  # 1: inputs failed, and are named
}

WANTED=${*:-all}
FEW='--set short=["data/ljspeech16.jsonl"] --set decoding.temperature=[0.0]'
TWO='--set short=["data/ljspeech16.jsonl","data/fotaq24.jsonl"]'
BRIEF='--set training.steps=40 --set training.checkpoint_every=40 --set rounds=1 --set timed_utterances=5'
DRAFTS='--set hardware.dtype=float32 --set hardware.backend=torch'

results table5 --set timed_recordings=1
results table6
results table7 --set timed_recordings=1 --set timed_utterances=3
results table8
results table9 $FEW $DRAFTS
results table16
results table17
results table18
results table19
results table20 $FEW
results table22 $FEW $DRAFTS
results table23
results table24 $FEW
results figure2 $FEW --set 'snrs_db=[30,10,5,0,-5]' --set 'noises=["white","babble"]'
results overlap --set 'seam_chunks_s=[30]' --set 'decoding.temperature=[0.0]'
results prompts $FEW
results label-quality --set train=data/trusted.jsonl --set label.pack=true --set 'label.decoding.temperature=[0.0]'
results hallucination --set nonspeech_minutes=0.25

trained table10 $TWO $BRIEF --set 'max_wers=[1.0,0.1]'
trained table11
trained table12 --set rounds=2 --set timed_utterances=3
trained table21 $TWO $BRIEF --set train=data/train400.jsonl
trained encoder $TWO $BRIEF --set train=data/train400.jsonl
