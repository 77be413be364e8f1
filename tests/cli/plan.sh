#!/usr/bin/env bash
# plan.sh - what `coar plan` says: counts that are known, disk and memory of a small job against what it takes, the Slurm
# scripts it writes, run by a stand-in of Slurm; no time is asserted.
. tests/cli/lib.sh

value() { "$PYTHON" -c 'import json, sys; print(eval(sys.argv[2], {}, {"p": json.load(open(sys.argv[1]))}))' "$T/.out" "$1"; }
plan() { "$COAR" plan --model resnet20 --threads 1 --time 0.05 --json "$@"; }
given() { "$COAR" plan --model resnet20 --count 300 --rate 1000 --json "$@"; }

# ------------------------------------------------------------------------------------------------------ counts
succeeds "a plan from given rates" given --masks 200 --devices 3
same "units of 200 masks and 300 examples" "$(value '[s["units"] for s in p["stages"]]')" "[0, 4, 0, 2, 0]"
same "images" "$(value '[s["images"] for s in p["stages"]]')" "[0, 60000, 0, 30000, 0]"
same "rows" "$(value '[d["devices"] for d in p["devices"]]')" "[1, 2, 3]"
same "seconds of the units at 1,000 images/s" "$(value 'round(p["stages"][1]["work_seconds"], 6)')" 60
same "three devices take two of four units' time" \
    "$(value 'round(p["devices"][2]["seconds"]["ablate"] - p["stages"][1]["start_seconds"] - p["stages"][1]["finish_seconds"], 3)')" 30.0
same "efficiency: 90 s of units, (30 + 15) s on three" "$(value 'round(p["devices"][2]["efficiency"], 4)')" 0.6667
same "weights and examples to the two others" "$(value 'p["devices"][2]["broadcast_bytes"]')" \
    "$("$PYTHON" -c "print(2 * ($(value 'p["weight_bytes"]') + 300 * 3072))")"
same "nothing was measured" "$(value 'p["measured"], p["device_class"]')" "(False, '')"
succeeds "gradients" given --passes 32 --output margin,loss
same "chains of two outputs, and masks to calibrate on" "$(value 'p["stages"][0]["units"], p["masks"]')" "(20, 256)"
same "a reverse pass costs two and a half" "$(value 'round(p["stages"][0]["work_seconds"], 6)')" 48 # 32 x 300 x 2 x 2.5 / 1000
succeeds "what a budget buys at most" given
same "2n passes' worth" "$(value 'p["passes"], p["masks"]')" "(512, 64)" # 16 x 2.5 + 64, and 512 x 2.5 of 1,376
succeeds "text" "$COAR" plan --model resnet20 --count 300 --masks 200 --rate 1000
same "a line for each stage that there is" "$(grep -cE '^(ablate|fit|evaluate|report) ' "$T/.out")" 4
succeeds "a language model's texts" "$COAR" plan --model gpt2 --count 4 --tokens 16 --masks 64 --rate 10 --json
same "an example is 16 tokens" "$(value 'p["example_bytes"]')" 64
succeeds "units of a network that takes 4.8 GMAC an image" "$COAR" plan --model mini_resnet_256 --count 5000 --masks 100 --rate 1e4 --json
same "1e13 flops at the most" "$(value 'p["unit_masks"] * p["unit_examples"] * p["flops_per_image"] <= 1e13')" True

# ------------------------------------------------------------------------------------------- against a small job
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
job=(--model "$DIGITS/digits-resnet.safetensors" --data "$T/d.h5" --examples 0:500 --masks 128 --passes 8 --alpha 0.1
    --eval-masks 64 --threads 2 -o "$T/r.h5")
succeeds "a plan measured here" "$COAR" plan "${job[@]}" --time 0.2 --json
absent "nothing is left where the run will be" "$T"/r.h5*
cp "$T/.out" "$T/plan.json"
succeeds "the job" "$COAR" run "${job[@]}"
told=$(grep -oE 'memory: [0-9]+ MiB' "$T/.err" | head -n 1 | grep -oE '[0-9]+')
cp "$T/plan.json" "$T/.out"
near() { # NAME PLANNED TAKEN
    if awk -v a="$2" -v b="$3" 'BEGIN { exit !(a > 0.9 * b && a < 1.1 * b) }'; then pass "$1: $2 of $3"; else fail "$1"; note "planned $2, found $3"; fi
}
near "disk in the end" "$(value 'p["disk_final_bytes"]')" "$(cat "$T/r.h5" "$T"/r.h5.parts/* | wc -c)"
near "memory of reverse passes, MiB" "$(value 'round(p["stages"][0]["memory_bytes"] / 2**20)')" "$told"
same "units as the run has them" "$(value 'p["unit_masks"], p["unit_examples"]')" \
    "$("$PYTHON" -c 'import h5py, sys; a = h5py.File(sys.argv[1]).attrs; print((int(a["unit_masks"]), int(a["unit_examples"])))' "$T/r.h5")"

# ----------------------------------------------------------------------------------------------------- scripts
mkdir -p "$T/bin" "$T/scripts"
for name in coar sbatch scontrol; do
    cat >"$T/bin/$name" <<'END'
#!/bin/bash
printf '%s' "${0##*/}" >>"$LOG"
printf ' <%s>' "$@" >>"$LOG"
echo >>"$LOG"
[ "${0##*/}" = sbatch ] && echo "77;here"
[ "${0##*/}" != coar ] || exit "${CODE:-0}"
END
    chmod +x "$T/bin/$name"
done
odd="$T/scripts/it's \$(odd) \"run\".h5"
script=$T/scripts/job.sbatch
succeeds "an array script" given --model resnet20 --masks 200 --passes 16 --seed=3 --except 'layer1.*' --estimator grad \
    --threads 3 -o "$odd" --devices 4 --slurm "$script"
fails 1 "--force" "an existing script" given --masks 200 --slurm "$script"
fails 2 "array or mpi" "a form that there is not" given --masks 200 --slurm "$T/x.sbatch" --form shell
fails 2 "--masks or --passes" "a script of a budget" given --slurm "$T/x.sbatch"
absent "no script of what is refused" "$T/x.sbatch"
same "its syntax" "$(bash -n "$script" 2>&1)" ""
task() { LOG=$T/log PATH=$T/bin:$PATH MODEL=w.safetensors DATA="d 1.h5" "$@"; }
passes="<--model> <w.safetensors> <--data> <d 1.h5> <-o> <$odd> <--seed> <3> <--except> <layer1.*>"
succeeds "a task of it" task env SLURM_JOB_ID=5 SLURM_ARRAY_JOB_ID=4 SLURM_ARRAY_TASK_ID=2 SLURM_CPUS_PER_TASK=3 bash "$script"
same "runs its shard" "$(cat "$T/log")" "coar <gradients> $passes <--passes> <16> <--shard> <2/4> <--threads> <3>
coar <ablate> $passes <--masks> <200> <--shard> <2/4> <--threads> <3>"
rm "$T/log"
task env CODE=3 SLURM_JOB_ID=5 SLURM_ARRAY_JOB_ID=4 SLURM_ARRAY_TASK_ID=2 bash "$script"
same "exit code of a task that was stopped" $? 3
same "queues it again" "$(tail -n +2 "$T/log")" "scontrol <requeue> <4_2>"
rm "$T/log"
succeeds "outside of a job" task env -u SLURM_JOB_ID bash "$script"
same "submits the shards and what follows" "$(sed 's/ <--time=[^>]*>//' "$T/log")" "sbatch <--parsable> <$script>
sbatch <--dependency=afterok:77> <--array=0> <$script> <later>"
rm "$T/log"
succeeds "what follows" task env SLURM_JOB_ID=5 SLURM_ARRAY_JOB_ID=4 SLURM_ARRAY_TASK_ID=0 bash "$script" later
same "is the run" "$(cat "$T/log")" "coar <run> $passes <--estimator> <grad> <--masks> <200> <--passes> <16> <--threads> <1>"
fails '[1-9]*' "MODEL" "a script that is not told its weights" env -u MODEL SLURM_JOB_ID=5 bash "$script"
succeeds "an MPI script" given --masks 200 -o "$odd" --devices 4 --slurm "$script" --force --form mpi
same "its tasks" "$(grep -c '^#SBATCH --ntasks=4$' "$script")" 1
rm -f "$T/log"
succeeds "runs" task env LAUNCH=env SLURM_JOB_ID=5 SLURM_CPUS_PER_TASK=2 bash "$script"
same "the run on all ranks" "$(cat "$T/log")" \
    "coar <run> <--model> <w.safetensors> <--data> <d 1.h5> <-o> <$odd> <--masks> <200> <--threads> <2>"

mkdir "$T/reference"
succeeds "the reference's jobs" env PATH="$(dirname "$COAR"):$PATH" bash examples/slurm/reference/make.sh "$T/reference"
same "are what examples/slurm/reference holds" \
    "$(diff -r -x make.sh examples/slurm/reference "$T/reference" | head -n 5)" ""

# ---------------------------------------------------------------------------------------------------- refusals
fails 2 "--model" "no model" "$COAR" plan --count 10
fails 2 "--data" "no data" "$COAR" plan --model resnet20
fails 2 "--count" "data and a count" "$COAR" plan --model resnet20 --data "$T/d.h5" --count 3
fails 2 "--devices '0'" "no devices" given --devices 0
fails 2 "--devices 2000000" "too many devices" given --devices 2000000
fails 2 "--rate 0" "no rate" "$COAR" plan --model resnet20 --count 10 --rate 0
fails 2 "--reverse-rate" "half of the rates" "$COAR" plan --model resnet20 --count 10 --reverse-rate 5
fails 2 "no_such_net" "a model that there is not" "$COAR" plan --model no_such_net --count 10 --rate 10
fails 2 "--alpha" "gradients at one half" given --passes 4 --alpha 0.5
fails 2 "estimator" "an estimator that there is not" given --estimator best
fails 2 "--eval-alpha" "an alpha that is none" given --eval-alpha 0.1,x
fails 2 "--masks" "masks of a file, how many" given --sampler file:m.npy
fails 2 "8 x 8" "data of another size" "$COAR" plan --model resnet20,image=32 --data "$T/d.h5" --rate 10
finish
