#!/usr/bin/env bash
# memory.sh - what is told beforehand against what the process comes to have, within 10 %: networks of few weights, where the
# program itself counts, and of many; forward and reverse passes.
. tests/cli/lib.sh

# close NAME COMMAND...: the last plan that stderr tells, and the most that was resident (ru_maxrss, in KiB).
close() {
    local name=$1
    shift
    if "$PYTHON" - "$@" >"$T/.out" 2>&1 <<'EOF'
import re, resource, subprocess, sys
run = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
plans = re.findall(r"memory: (\d+) MiB planned", run.stderr)
if run.returncode or not plans:
    sys.exit(f"exit code {run.returncode}: {run.stderr}")
print(f"{plans[-1]} MiB planned, {peak:.1f} MiB resident at most")
sys.exit(abs(int(plans[-1]) / peak - 1) > 0.1)
EOF
    then pass "$name: $(cat "$T/.out")"; else fail "$name"; note "$(cat "$T/.out")"; fi
}
bench() { local name=$1; shift; close "$name" "$COAR" bench --backend cpu --threads 2 --batch 32 --time 0.01 "$@"; }
job() { # NAME COMMAND [OPTION]...
    local name=$1 command=$2
    shift 2
    close "$name" "$COAR" "$command" --backend cpu --threads 2 --data "$T/d.h5" --examples 0:128 -o "$T/$command.h5" --force "$@"
}

"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
for network in resnet vit; do
    job "digits, $network: ablate" ablate --model "$DIGITS/digits-$network.safetensors" --masks 128
    job "digits, $network: gradients" gradients --model "$DIGITS/digits-$network.safetensors" --passes 4
done
bench "resnet20: forward passes" --model resnet20
bench "resnet20: reverse passes" --model resnet20 --gradients
bench "11 million weights: forward passes" --model resnet18_cifar,image=8
bench "11 million weights: reverse passes in little memory" --model resnet18_cifar,image=8 --exact --gradients --memory 140M
bench "ResNet-50's 26 million: forward passes" --model resnet50,image=32
fails 1 "--memory: this job needs at least" "less memory than the weights take" \
    "$COAR" bench --backend cpu --model resnet18_cifar,image=8 --memory 20M
finish
