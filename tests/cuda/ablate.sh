# ablate.sh - whole jobs on the CUDA backend, over the shim and the stand-ins: outputs against the reference, a run that is killed or
# loses its device and goes on, machines without a device. --exact: nothing is timed where there is no GPU.
. tests/cli/lib.sh
export COAR_PLAN_CACHE=$T/cache
if [ -z "${PYTHON:-}" ]; then
    skip "jobs on the CUDA backend" "no Python with h5py"
    finish
fi
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
resnet="--model $DIGITS/digits-resnet.safetensors --data $T/d.h5 --exact"

# close NAME A B LIMIT [DATA SET]: the relative rms difference, of the margins unless told, is at most so much
close() {
    local got
    got=$("$PYTHON" -c "
import h5py, numpy as np, sys
a, b = (h5py.File(p)[sys.argv[4]][()].astype(float) for p in sys.argv[1:3])
d = np.sqrt(((a - b) ** 2).mean() / (b ** 2).mean())
print('close' if d <= float(sys.argv[3]) else f'rms difference {d:.3g}')" "$2" "$3" "$4" "${5:-ablations/margin}")
    same "$1" "$got" close
}

# One job of 256 masks x 6 examples, in bf16.
exec_job() { exec "$COAR" ablate $resnet --backend cuda --precision bf16 --examples 0:6 --alpha .1 --masks 256 --seed 3 -o "$@"; }
job() { (exec_job "$@"); }
succeeds "a run in bf16" job "$T/whole.h5"
succeeds "the same by the reference, rounded as bf16" "$COAR" ablate $resnet --backend reference --precision bf16 --examples 0:6 \
    --alpha .1 --masks 256 --seed 3 -o "$T/reference.h5"
close "outputs are the reference's" "$T/whole.h5" "$T/reference.h5" .03
succeeds "little memory" job "$T/little.h5" --memory 700K
succeeds "the same bytes" "$PYTHON" tests/python/compare_runs.py "$T/whole.h5" "$T/little.h5"

# Killed as soon as there is something to go on from.
(exec_job "$T/killed.h5") >/dev/null 2>&1 &
pid=$!
for _ in $(seq 400); do
    [ -n "$(find "$T/killed.h5.parts" -name '*.journal' 2>/dev/null)" ] && break
    sleep .02
done
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
same "a run is killed" $? 137
succeeds "the same command after a kill" job "$T/killed.h5"
succeeds "the same bytes after a kill" "$PYTHON" tests/python/compare_runs.py "$T/whole.h5" "$T/killed.h5"

# The device fails after so many kernels: what is finished (here the baseline) is saved.
COAR_STANDIN_KILL=0:20:700 COAR_STANDIN_LEAKS=0 fails 1 "the same command goes on" "a device that is lost" job "$T/lost.h5"
succeeds "the same command after the loss" job "$T/lost.h5"
succeeds "the same bytes after the loss" "$PYTHON" tests/python/compare_runs.py "$T/whole.h5" "$T/lost.h5"
COAR_STANDIN_FAIL=cudaGraphInstantiate:0:2 succeeds "out of memory in the middle: smaller batches" job "$T/short.h5"
succeeds "the same bytes in smaller batches" "$PYTHON" tests/python/compare_runs.py "$T/whole.h5" "$T/short.h5"

# Averaged gradients.
gradients() { "$COAR" gradients $resnet --precision bf16 --examples 0:6 --alpha .1 --passes 4 --seed 3 "$@"; }
succeeds "gradients in bf16" gradients --backend cuda -o "$T/gradients.h5"
succeeds "gradients by the reference, rounded as bf16" gradients --backend reference -o "$T/gradients-reference.h5"
close "gradients are the reference's" "$T/gradients.h5" "$T/gradients-reference.h5" .03 gradients/margin/sum
succeeds "gradients in little memory" gradients --backend cuda --memory 900K -o "$T/gradients-little.h5"
succeeds "the same gradients in small batches" "$PYTHON" tests/python/compare_runs.py "$T/gradients.h5" "$T/gradients-little.h5"

# Settings: stored, taken over, refused.
succeeds "a fit on the device" "$COAR" fit "$T/whole.h5" --estimator ridge
succeeds "evaluate takes backend, plan and precision from the run" "$COAR" evaluate "$T/whole.h5" --alpha .1 --masks 8
fails 1 "--precision" "a run of another precision" "$COAR" ablate $resnet --backend cuda --precision fp32 --examples 0:6 --alpha .1 \
    --masks 256 --seed 3 -o "$T/whole.h5"
fails 1 "--backend" "a run of another backend" "$COAR" ablate $resnet --backend cpu --examples 0:6 --alpha .1 --masks 256 --seed 3 \
    -o "$T/whole.h5"
COAR_STANDIN_CAPABILITY=9.0 fails 1 "cuda/" "a run of another device" job "$T/whole.h5" --masks 300
succeeds "auto, and the ViT" "$COAR" ablate --model "$DIGITS/digits-vit.safetensors" --data "$T/d.h5" --exact --examples 0:2 --masks 4 -o "$T/vit.h5"
same "auto says what it tried" "$(grep -cE 'precision auto: bf16 (stays inside|misses) the bound' "$T/.err")" 1
bench="bench --model $DIGITS/digits-resnet.safetensors --backend cuda --precision fp16 --exact --batch 2 --time .1 --json"
succeeds "bench" "$COAR" $bench
succeeds "bench of reverse passes" "$COAR" $bench --gradients

# No device.
plain="ablate --model $DIGITS/digits-resnet.safetensors --data $T/d.h5 --examples 0:6 --masks 4"
COAR_STANDIN_DRIVER=0 fails 1 "--backend cuda: " "no driver" "$COAR" $plain --backend cuda -o "$T/no.h5"
COAR_STANDIN_DEVICES=0 fails 1 "no CUDA device" "no device" "$COAR" $plain --backend cuda -o "$T/no.h5"
COAR_STANDIN_CAPABILITY=7.0 fails 1 "compute capability" "an old device" "$COAR" $plain --backend cuda -o "$T/no.h5"
COAR_STANDIN_MEMORY=100000 fails 1 "device memory" "a small device" "$COAR" $plain --exact --backend cuda --precision fp32 -o "$T/no.h5"
absent "nothing is left of them" "$T/no.h5" "$T/no.h5.parts"
COAR_STANDIN_DEVICES=0 succeeds "the default is then another backend" "$COAR" $plain -o "$T/cpu.h5"
finish
