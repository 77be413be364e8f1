# gradients.sh - `coar gradients`: kill -9 and SIGTERM at random moments, shards, extensions and both orders with ablations give the
# bytes of one undisturbed go; h5py reads the result, and its zeros are where numpy's masks of docs/masks.md say.
. tests/cli/lib.sh
if [ -z "${PYTHON:-}" ]; then
    skip "gradients: kills and restarts" "no Python with numpy and h5py"
    finish
fi
RANDOM=20261123
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
gradients() {
    exec "$COAR" gradients --model "$DIGITS/digits-vit.safetensors" --data "$T/d.h5" --examples 0:130 --alpha .1 --seed 7 --threads 2 \
        --output margin,loss "$@"
}
run() { (gradients "$@"); }
agree() { succeeds "$1" "$PYTHON" tests/python/compare_runs.py "$T/whole.h5" "$2"; }

start=$(milliseconds)
succeeds "gradients: an undisturbed run" run --passes 48 -o "$T/whole.h5"
took=$(($(milliseconds) - start))
succeeds "gradients: the same again" run --passes 48 -o "$T/whole.h5"
same "gradients: has nothing to do" "$(grep -c 'nothing to do' "$T/.out")" 1

kill_often 10 "$took" "$T/killed.h5" gradients --passes 48 -o "$T/killed.h5"
same "gradients: kills that hit a live program" "$kills" 10
same "gradients: run files that did not open after a kill" "$broken" 0
succeeds "gradients: the same command finishes the run" run --passes 48 -o "$T/killed.h5"
agree "gradients: killed ten times, the bytes of an undisturbed run" "$T/killed.h5"

# SIGTERM until it ends: each time the group of passes in hand is saved and the next run goes on there.
code=3 stops=0 attempts=0
while [ $code = 3 ] && [ $attempts -lt 50 ]; do
    attempts=$((attempts + 1))
    gradients --passes 48 -o "$T/term.h5" >/dev/null 2>"$T/.err" &
    pid=$!
    moment $((took / 2))
    kill -TERM $pid 2>/dev/null
    wait $pid
    code=$?
    if [ $code = 3 ]; then stops=$((stops + 1)); cp "$T/.err" "$T/.stopped"; fi
    if [ $code = 143 ]; then code=3; fi # before it listened
done
same "gradients: SIGTERM, exit code in the end" $code 0
if [ $stops -gt 0 ] && grep -q 'the same command goes on' "$T/.stopped"; then
    pass "gradients: SIGTERM: exit code 3, and says how to go on"
else
    fail "gradients: SIGTERM: exit code 3, and says how to go on"
    note "$stops stops"
fi
agree "gradients: the same bytes after SIGTERM" "$T/term.h5"

# A time limit, another number of passes, shards, more passes.
fails 3 "the same command goes on" "gradients: a time limit" run --passes 48 --time-limit .01 -o "$T/limit.h5"
run --passes 20 -o "$T/limit.h5" >/dev/null 2>&1
run --passes 48 -o "$T/limit.h5" >/dev/null 2>&1
agree "gradients: interrupted, then 20, then 48 passes" "$T/limit.h5"
run --passes 48 --shard 1/2 -o "$T/shards.h5" >/dev/null 2>&1
run --passes 48 --shard 0/2 -o "$T/shards.h5" >/dev/null 2>&1
agree "gradients: two shards are one run" "$T/shards.h5"
fails 1 "--alpha" "gradients: another alpha than the run's" run --passes 48 --alpha .2 -o "$T/whole.h5"
fails 2 "below 0.5" "gradients: alpha .5" run --passes 48 --alpha .5 -o "$T/none.h5"
absent "gradients: refused options leave nothing" "$T/none.h5" "$T/none.h5.parts"

# Beside ablations, and read by others.
"$COAR" ablate --model "$DIGITS/digits-resnet.safetensors" --data "$T/d.h5" --examples 0:40 --alpha .3 --masks 20 --sampler fixed -o "$T/both.h5" \
    >/dev/null 2>&1
succeeds "gradients: of a run that ablate began" "$COAR" gradients --model "$DIGITS/digits-resnet.safetensors" --data "$T/d.h5" \
    --examples 0:40 --alpha .3 --passes 1 -o "$T/both.h5"
succeeds "gradients: merge" "$COAR" merge "$T/both.h5" -o "$T/one.h5"
for file in both one; do
    succeeds "gradients: h5py reads $file.h5, and numpy's masks are those of its one pass" "$PYTHON" tests/python/masks_twin.py \
        --gradients "$T/$file.h5"
done
succeeds "gradients: info" "$COAR" info "$T/one.h5"
same "gradients: info names them" "$(grep -c 'gradients of margin: 1 passes' "$T/.out")" 1
finish
