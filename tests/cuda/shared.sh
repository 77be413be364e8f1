# shared.sh - ResNet-20 and the ViT of the shared material on the CUDA backend, over the shim: 4 golden masks x 4 examples against
# PyTorch's margins.
. tests/cli/lib.sh
if [ ! -d "$SHARED/golden" ] || [ -z "${PYTHON:-}" ]; then
    skip "published networks on the CUDA backend" "no shared material in $SHARED, or no Python with h5py"
    finish
fi
G=$SHARED/golden M=$SHARED/models
tar -C "$T" -xzf "$SHARED/cifar10/test-jpeg.tar.gz"
succeeds "pack 10,000 JPEG files" "$COAR" pack --from imagefolder "$T/test" \
    --mean .485,.456,.406 --std .229,.224,.225 -o "$T/test.h5"
"$PYTHON" -c "
import numpy
for name in ('r20', 'vit'):
    numpy.save(f'$T/{name}_masks.npy', numpy.load(f'$G/{name}_masks.npy')[:4])
    numpy.save(f'$T/{name}_examples.npy', numpy.load(f'$G/{name}_examples.npy')[:4])"

# One golden corner in one precision. fp32: 1e-3 absolute; others: 3 % rms.
golden() { # name, weights, precision
    local run=$T/$1-$3.h5
    succeeds "$2 in $3" "$COAR" ablate --model "$M/$2" --data "$T/test.h5" --backend cuda --precision "$3" --exact \
        --examples "@$T/$1_examples.npy" --sampler "file:$T/$1_masks.npy" -o "$run"
    if "$PYTHON" - "$run" "$G/$1" "$3" >"$T/.out" 2>&1 <<'END'
import sys, h5py, numpy as np
run, golden, precision = sys.argv[1:]
with h5py.File(run) as f:
    ours, base = f["ablations/margin"][()].astype(float), f["baseline/margin"][()].astype(float)
theirs, theirs_base = np.load(golden + "_margins.npy")[:4, :4], np.load(golden + "_baseline.npy")[:4]
worst = max(np.abs(ours - theirs).max(), np.abs(base - theirs_base).max())
rms = np.sqrt(((ours - theirs) ** 2).mean() / (theirs**2).mean())
print(f"PyTorch's margins: largest difference {worst:.2e}, rms {100 * rms:.2f} %")
sys.exit(not (worst <= 1e-3 if precision == "fp32" else rms <= 0.03))
END
    then pass "$2 in $3: $(cat "$T/.out")"; else fail "$2 in $3"; note "$(cat "$T/.out")"; fi
}

for precision in fp32 bf16; do
    golden r20 resnet20-cifar10.safetensors $precision
    golden vit vit-cifar10.safetensors $precision
done
finish
