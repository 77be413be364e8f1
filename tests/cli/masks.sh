#!/usr/bin/env bash
# masks.sh - `coar masks` against the numpy generator of docs/masks.md, for every sampler it documents.
. tests/cli/lib.sh

if [ -z "${PYTHON:-}" ]; then
    skip "masks: numpy's masks are coar's" "no Python with numpy and h5py"
    finish
fi
succeeds "masks: the numpy generator alone" "$PYTHON" tests/python/masks_twin.py
succeeds "masks: pack" "$COAR" pack --from npy data/digits-images.npy --labels data/digits-labels.npy -o "$T/digits.h5"
for sampler in bernoulli fixed stratified loo; do
    count="--masks 77"
    [ $sampler = loo ] && count=""
    # shellcheck disable=SC2086
    succeeds "masks: ablate with $sampler" "$COAR" ablate --model data/digits-resnet.safetensors --data "$T/digits.h5" \
        --examples 0:3 --alpha 0.137 --seed 1311768467463790320 --sampler $sampler $count -o "$T/$sampler.h5"
    succeeds "masks: write those of $sampler" "$COAR" masks "$T/$sampler.h5" -o "$T/$sampler.npy"
    succeeds "masks: numpy's are coar's, $sampler" "$PYTHON" tests/python/masks_twin.py "$T/$sampler.h5" "$T/$sampler.npy"
done
fails 1 "$T/loo.npy" "masks: an existing file is not replaced" "$COAR" masks "$T/loo.h5" -o "$T/loo.npy"
finish
