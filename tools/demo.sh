#!/usr/bin/env bash
# The main job on the data in data/: two small networks trained on handwritten digits, from images to a report.
#   tools/demo.sh BUILD
set -eu
build=${1:-build}
coar=$build/coar
out=$build/demo
mkdir -p "$out"
rm -rf "$out"/*

say() { printf '\n$ %s\n' "$*"; "$@"; }

say "$coar" pack --from npy data/digits-images.npy --labels data/digits-labels.npy -o "$out/digits.h5"
# The residual network: which filters do its predictions on held-out digits hang on? How much to compute, coar decides.
say "$coar" run --model data/digits-resnet.safetensors --data "$out/digits.h5" --examples @data/digits-test-rows.npy \
    --alpha 0.10 --eval-masks 200 --eval-alpha .1,.05 -o "$out/resnet.h5"
# How well do simpler scores predict the same ablations?
say "$coar" evaluate "$out/resnet.h5" --baselines --masks 200
# The vision transformer: the same for its 896 neurons.
say "$coar" run --model data/digits-vit.safetensors --data "$out/digits.h5" --examples @data/digits-test-rows.npy \
    --alpha 0.05 --eval-masks 200 -o "$out/vit.h5"
say "$coar" info "$out/resnet.h5"
# Forget a digit: ablate filters for good so that no 3 is recognised any more, and the others are. Chosen by attributions of ten threes
# and 81 other digits; threes it has not seen come last.
say "$coar" edit "$out/resnet.h5" --target "$(seq -s, 0 5 600)&class:3" --reference "$(seq -s, 0 20 1780)&!class:3" --lower --compare \
    -o "$out/no-threes.safetensors"
say "$coar" report "$out/resnet.h5" -o "$out/resnet.html" --force

echo
echo "Edited weights, with which no 3 is a 3: $out/no-threes.safetensors"
echo "Open $out/resnet.html and $out/vit.html in a browser: which layers and filters matter, and how well they predict."
echo "The numbers are in $out/resnet.h5 and $out/vit.h5 (HDF5; docs/runfile.md)."
