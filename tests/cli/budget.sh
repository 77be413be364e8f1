# budget.sh - coar run where a budget decides: what it chooses, reruns, kills, budgets that are too small or wrong.
. tests/cli/lib.sh
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
R=$DIGITS/digits-resnet.safetensors
components=$("$COAR" info "$R" | sed -n 's/^ *components *\([0-9]*\) .*/\1/p')
job() { "$COAR" run --model "$R" --data "$T/d.h5" --examples 0:40 --alpha .1 --eval-masks 40 --seed 3 --threads 2 "$@"; }
# "K M" of the last step.
last_step() { sed 's/.*"passes":\([0-9]*\),"masks":\([0-9]*\)[^{]*$/\1 \2/' "$1.parts/budget.steps"; }
steps_of() { sed 's/"seconds":[0-9.e-]*//g' "$1.parts/budget.steps"; }
steps() { grep -o '"passes"' "$1.parts/budget.steps" | wc -l; }

succeeds "without passes, masks or budget: steps within 2n passes" job -o "$T/run.h5"
cp "$T/.out" "$T/.run"
read -r passes masks < <(last_step "$T/run.h5")
same "they cost no more than that" "$((5 * passes + 2 * masks <= 2 * 2 * components))" 1
same "and are evaluated" "$(grep -c '^grad ' "$T/.run")" 1
cp "$T/run.h5.parts/budget.steps" "$T/steps"
succeeds "the same command again" job -o "$T/run.h5"
succeeds "makes no further step" cmp "$T/steps" "$T/run.h5.parts/budget.steps"
succeeds "as JSON" job --json -o "$T/run.h5"
predicted='import json, sys; f = json.load(open(sys.argv[1])); f = f.get("fits", [f])[0]; p, (low, high) = f["predicted"], f["predicted_ci"]
print(f["fit"], -1 < low < p < high < 1, "%.3f (95 %%: %.3f to %.3f)" % (p, low, high))'
same "with the fit's predicted correlation inside its interval" "$("$PYTHON" -c "$predicted" "$T/.out" | cut -d' ' -f1,2)" "grad True"
succeeds "a fit as text" "$COAR" fit "$T/run.h5" --estimator grad --force
text=$(sed -n 's/^predicted correlation on fresh masks: //p' "$T/.out")
succeeds "a fit as JSON" "$COAR" fit "$T/run.h5" --estimator grad --force --json
same "the same interval in both" "$("$PYTHON" -c "$predicted" "$T/.out")" "grad True $text"
succeeds "a larger budget goes on" job --budget 1500p -o "$T/run.h5"
cp "$T/.out" "$T/.run"
same "with further steps" "$(($(steps "$T/run.h5") > $(grep -o '"passes"' "$T/steps" | wc -l)))" 1
same "and fits the residuals" "$(grep -c '^grad+eb ' "$T/.run")" 1

succeeds "--force starts such a run over" job --force -o "$T/run.h5"
same "with the steps of the first time" "$(steps_of "$T/run.h5")" "$(sed 's/"seconds":[0-9.e-]*//g' "$T/steps")"
rm "$T/run.h5.parts/gradients.h5"
succeeds "gradients that are gone are made again" job -o "$T/run.h5"

succeeds "ridge alone: 2n masks, no budget" job --estimator ridge -o "$T/ridge.h5"
same "as they used to be" "$(grep -c "$((2 * components)) masks" "$T/.out")" 1
succeeds "a budget of ridge: masks alone" job --estimator ridge --budget 400p -o "$T/ridge-budget.h5"
same "as many as fit, but for evaluation's 40" "$(last_step "$T/ridge-budget.h5")" "0 320"
succeeds "a budget of the lasso" job --estimator lasso --budget 700p -o "$T/lasso-budget.h5"
succeeds "ridge and grad: 2n masks and 64 reverse passes" job --estimator grad,ridge -o "$T/both.h5"
same "no budget decides" "$(grep -c "gradients of 64 passes" "$T/.out") $(grep -c "$((2 * components)) masks" "$T/.out")" "1 1"
succeeds "reverse passes of a leave-one-out run" job --sampler loo --passes 16 -o "$T/loo.h5"
fails 2 "evaluation takes 40" "less than the evaluation and a step" job --budget 42p -o "$T/x.h5"
succeeds "reverse passes of two outputs" job --output margin,loss --budget 240p -o "$T/two.h5"
same "count twice" "$(last_step "$T/two.h5")" "16 64"
fails 2 "loo" "a budget and masks that are given" job --sampler loo --budget 400p -o "$T/x.h5"

succeeds "a budget of a few passes: gradients alone" job --budget 45p -o "$T/few.h5"
same "two reverse passes' worth for evaluation's 40 masks" "$(last_step "$T/few.h5")" "2 0"
succeeds "a larger one goes on" job --budget 200p -o "$T/few.h5"
same "with masks" "$(last_step "$T/few.h5")" "32 64"
succeeds "a budget in time" job --budget 2s -o "$T/time.h5"
succeeds "--passes alone" job --passes 16 -o "$T/passes.h5"
same "has 256 masks to calibrate with" "$(grep -c '256 masks' "$T/.out")" 1

for bad in 10 0p -5m 5x p 1e400m ""; do
    fails 2 "--budget '$bad'" "--budget '$bad'" job --budget "$bad" -o "$T/x.h5"
done
fails 2 "--budget" "a budget and masks" job --budget 10m --masks 10 -o "$T/x.h5"
fails 2 "--budget" "a budget and a shard" job --budget 10m --shard 0/2 -o "$T/x.h5"
absent "nothing was begun" "$T/x.h5" "$T/x.h5.parts"
for bad in '' '{' '[]' '{"format":"coar.steps","seconds":1,"steps":[{}]}' '{"format":"coar.steps","seconds":1,"steps":[{"passes":-1,"masks":1}]}' '{"format":"coar.steps","seconds":1,"steps":[{"passes":1,"masks":2,"predicted":7}]}' \
    '{"format":"coar.other","seconds":1,"steps":[{"passes":1,"masks":1}]}'; do
    printf '%s' "$bad" >"$T/few.h5.parts/budget.steps"
    fails 1 "budget.steps" "budget.steps is '$bad'" job --budget 45p -o "$T/few.h5"
done

# Killed at random moments, and where the first step's passes are there but not written down: the end is that of a run that
# was not.
if [ -z "${PYTHON:-}" ]; then skip "kills" "no Python with h5py"; finish; fi
RANDOM=7
succeeds "an undisturbed run" job --budget 1000p -o "$T/whole.h5"
begin() { "$COAR" "$@" --model "$R" --data "$T/d.h5" --examples 0:40 --alpha .1 --seed 3 --threads 2 -o "$T/begun.h5"; }
succeeds "passes of the first step" begin gradients --passes 16
succeeds "and its masks" begin ablate --masks 64
succeeds "a run from there" job --budget 1000p -o "$T/begun.h5"
same "has the steps of one from the beginning" "$(steps_of "$T/begun.h5")" "$(steps_of "$T/whole.h5")"
hits=0
for _ in 1 2 3 4 5 6; do
    "$COAR" run --model "$R" --data "$T/d.h5" --examples 0:40 --alpha .1 --eval-masks 40 --seed 3 --threads 2 --budget 1000p \
        -o "$T/killed.h5" >/dev/null 2>&1 &
    sleep "0.$((RANDOM % 8 + 1))"
    kill -9 $! 2>/dev/null
    wait $! 2>/dev/null
    [ $? = 137 ] && hits=$((hits + 1))
done
same "at least three kills hit a live program" "$((hits >= 3))" 1
succeeds "the same command finishes it" job --budget 1000p -o "$T/killed.h5"
same "with the same steps" "$(steps_of "$T/killed.h5")" "$(steps_of "$T/whole.h5")"
succeeds "and the same data" "$PYTHON" tests/python/compare_runs.py "$T/whole.h5" "$T/killed.h5"
finish
