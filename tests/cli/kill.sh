# kill.sh - kill -9 at twenty random moments of ablate, fit, evaluate and merge: the run file opens after each, and what comes
# out in the end is what an undisturbed run gives. Then a hundred kills of two and three processes that share a run, a folder that
# vanishes and a disk that is full.
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

# --- a hundred kills in a row: two processes, resumed with three, these with two again. No unit that was done is lost.
shared() { exec "$COAR" ablate --model "$DIGITS/digits-resnet.safetensors" --data "$T/d.h5" --examples 0:100 --masks 4000 --threads 1 -o "$@"; }
# done_units RUN: of the stage under way; 999999 once its outputs are finished
done_units() {
    "$COAR" status "$1" --json 2>/dev/null |
        sed 's/.*"stages":\[\],"finished":\["outputs.*/999999/; s/.*"stages":\[\].*/0/; s/.*"done":\([0-9]*\),"fraction.*/\1/'
}
finished() { for _ in $(seq 30); do (shared "$1") >/dev/null 2>"$T/.err" && return; sleep .1; done; false; } # alone, after all others
succeeds "one process's run" finished "$T/single.h5"
kills=0 lost=0 rounds=0 before=0 ends=0
while [ $kills -lt 100 ] && [ $rounds -lt 200 ]; do
    rounds=$((rounds + 1)) S=$((2 + rounds % 2)) pids=()
    for ((k = 0; k < S; k++)); do
        (shared "$T/many.h5" --shard $k/$S) >/dev/null 2>&1 &
        pids+=($!)
    done
    moment 400
    for pid in "${pids[@]}"; do
        kill -9 "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
        [ $? = 137 ] && kills=$((kills + 1))
    done
    after=$(done_units "$T/many.h5")
    [ "${after:-0}" -lt "$before" ] && lost=$((lost + 1)) && note "$after units after $before"
    before=${after:-0}
    if [ "$before" = 999999 ]; then
        cmp -s "$T"/many.h5.parts/outputs-*.h5 "$T"/single.h5.parts/outputs-*.h5 || lost=$((lost + 1))
        rm -rf "$T/many.h5" "$T/many.h5.parts"
        before=0 ends=$((ends + 1))
    fi
done
note "$kills kills in $rounds rounds; $ends runs were finished among them"
if [ $kills -ge 100 ]; then pass "a hundred kills hit"; else fail "a hundred kills hit"; fi
same "rounds after which a unit was missing" $lost 0
succeeds "the run ends" finished "$T/many.h5"
succeeds "its outputs are one process's, byte for byte" cmp "$T"/many.h5.parts/outputs-*.h5 "$T"/single.h5.parts/outputs-*.h5

# --- the folder vanishes under a process: it says so, and what it had saved is there when the folder is back
(shared "$T/away.h5") >/dev/null 2>"$T/.away" &
pid=$!
for _ in $(seq 100); do [ "$(done_units "$T/away.h5")" -gt 0 ] 2>/dev/null && break; sleep .05; done
mv "$T/away.h5.parts" "$T/elsewhere"
wait $pid
same "the folder vanished: exit code" $? 1
if grep -q 'away.h5.parts' "$T/.away"; then pass "it is named"; else fail "it is named"; note "$(cat "$T/.away")"; fi
mv "$T/elsewhere" "$T/away.h5.parts"
succeeds "it goes on when it is back" finished "$T/away.h5"
succeeds "with the same outputs" cmp "$T"/away.h5.parts/outputs-*.h5 "$T"/single.h5.parts/outputs-*.h5

# --- a full disk, and then room again
if mkdir "$T/full" && mount -t tmpfs -o size=300k tmpfs "$T/full" 2>/dev/null; then
    (shared "$T/full/f.h5") >/dev/null 2>"$T/.err"
    same "a full disk: exit code" $? 1
    some=$(done_units "$T/full/f.h5")
    if [ "${some:-0}" -gt 0 ]; then pass "what was saved before is there"; else fail "what was saved before is there"; note "$some units"; fi
    mount -o remount,size=32m "$T/full"
    succeeds "it goes on when there is room" finished "$T/full/f.h5"
    succeeds "with the same outputs" cmp "$T"/full/f.h5.parts/outputs-*.h5 "$T"/single.h5.parts/outputs-*.h5
    umount "$T/full"
else
    skip "going on after a full disk" "cannot mount a small file system here"
fi
finish
