# kill.sh - kill -9 at twenty random moments of ablate, fit, evaluate and merge: the run file opens after each, and what comes
# out in the end is what an undisturbed run gives.
. tests/cli/lib.sh
if [ -z "${PYTHON:-}" ]; then
    skip "kills and restarts" "no Python with h5py"
    finish
fi
RANDOM=20241122
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
job() { exec "$COAR" run --model "$DIGITS/digits-resnet.safetensors" --data "$T/d.h5" --examples 0:200 --alpha .1 --masks 300 \
    --estimator ols,ridge --eval-masks 80 --eval-alpha .1,.05 --seed 7 --threads 2 -o "$1"; }

run() { (job "$@"); }


start=$(milliseconds)
succeeds "an undisturbed run" run "$T/whole.h5"
took=$(($(milliseconds) - start))
start=$(milliseconds)
succeeds "an undisturbed merge" "$COAR" merge "$T/whole.h5" -o "$T/whole-merged.h5"
merge_took=$(($(milliseconds) - start))

# Moments are drawn over the whole length of a run, so that every stage is hit.
kill_often 20 "$took" "$T/killed.h5" job "$T/killed.h5"
same "kills that hit a live program" "$kills" 20
same "run files that did not open after a kill" "$broken" 0
succeeds "the same command finishes the run" run "$T/killed.h5"
succeeds "outputs, truth and fits are those of the undisturbed run" "$PYTHON" tests/python/compare_runs.py "$T/whole.h5" "$T/killed.h5"

# Merges start over each time; one that ended before its kill does not count.
merges=0 attempts=0
while [ $merges -lt 5 ] && [ $attempts -lt 50 ]; do
    attempts=$((attempts + 1))
    "$COAR" merge "$T/killed.h5" -o "$T/merged.h5" --force >/dev/null 2>&1 &
    pid=$!
    moment "$merge_took"
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    if [ $? = 137 ]; then merges=$((merges + 1)); fi
    if [ -e "$T/merged.h5" ]; then opens "$T/merged.h5" || broken=$((broken + 1)); fi
done
same "kills that hit a live merge" "$merges" 5
same "merged files are whole or absent" "$broken" 0
succeeds "merge" "$COAR" merge "$T/killed.h5" -o "$T/merged.h5" --force
succeeds "the merged file is that of the undisturbed run" "$PYTHON" tests/python/compare_runs.py "$T/whole-merged.h5" "$T/merged.h5"

# Signals that ask politely: the unit in hand is finished, exit code 3, the message says how to go on. A run that ended before its
# signal starts over.
code=0 attempts=0
while [ $code = 0 ] && [ $attempts -lt 20 ]; do
    attempts=$((attempts + 1))
    rm -rf "$T/term.h5" "$T/term.h5.parts"
    job "$T/term.h5" >/dev/null 2>"$T/.err" &
    pid=$!
    moment $((took / 2))
    kill -TERM $pid 2>/dev/null
    wait $pid
    code=$?
    [ $code = 143 ] && code=0 # before it listened
done
same "SIGTERM: exit code" $code 3
if grep -q 'the same command goes on' "$T/.err"; then pass "SIGTERM: says how to go on"; else fail "SIGTERM: says how to go on"; note "$(cat "$T/.err")"; fi
succeeds "going on after SIGTERM" run "$T/term.h5"
succeeds "the same bytes after SIGTERM" "$PYTHON" tests/python/compare_runs.py "$T/whole.h5" "$T/term.h5"

# An extension gives what one go gives.
part() { "$COAR" ablate --model "$DIGITS/digits-vit.safetensors" --data "$T/d.h5" --examples 0:40 --output margin,loss "$@" >/dev/null 2>&1; }
part --masks 100 -o "$T/grown.h5" && part --masks 230 -o "$T/grown.h5" && part --masks 230 -o "$T/once.h5"
succeeds "100 then 230 masks are 230 masks" "$PYTHON" tests/python/compare_runs.py "$T/grown.h5" "$T/once.h5"
part --masks 230 --shard 1/2 -o "$T/shards.h5" && part --masks 230 --shard 0/2 -o "$T/shards.h5"
succeeds "two shards are one run" "$PYTHON" tests/python/compare_runs.py "$T/shards.h5" "$T/once.h5"
finish
