#!/bin/bash
# make.sh - writes the scripts of this folder: the four jobs of the reference (docs/design.md, section 7), planned for H100s.
#
#   make.sh [FOLDER] [DEVICES] [OPTIONS of coar plan]
#
# into this folder and for 64 devices where nothing else is said. The rates are assumed, not measured: 13,500 and 2,000 images a
# second are what the reference reports of its GPUs for MiniResNet and ViT-B/16; 5,000 and 1,000 are the same share of the
# arithmetic that ResNet-50 and texts of 256 tokens need. The scripts take weights, data and run from MODEL, DATA and RUN.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here} devices=${2:-64}
shift $(($# < 2 ? $# : 2))
cd "$folder"
plan() { # NAME OPTION...
    local name=$1
    shift
    coar plan "$@" --fit-rate 1e12 --devices "$devices" --slurm "$name.sbatch" --force
}
plan mini_resnet --model mini_resnet_256 --count 10000 --masks 50000 --alpha 0.1 --estimator ols --rate 13500 "$@"
plan resnet50 --model resnet50 --count 50000 --masks 100000 --estimator ols --rate 5000 "$@"
plan vit_b_16 --model vit_b_16 --count 5000 --masks 100000 --estimator eb --rate 2000 "$@"
plan gpt2 --model gpt2 --count 500 --tokens 256 --masks 100000 --alpha 0.025 --estimator eb --rate 1000 "$@"
