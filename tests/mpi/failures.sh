# failures.sh - what goes wrong on one rank ends all of them, with one message and an exit code that is not 0; nothing that was
# saved is lost, and any number of ranks goes on.
. tests/cli/lib.sh
. tests/mpi/lib.sh
if [ -z "${PYTHON:-}" ]; then
    skip "ranks that fail" "no Python with h5py"
    finish
fi
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" --mean .5 --std .5 -o "$T/other.h5" >/dev/null
given=(--model "$DIGITS/digits-resnet.safetensors" --data "$T/d.h5" --examples 0:200 --alpha .1 --threads 1)
compare() { "$PYTHON" tests/python/compare_runs.py "$@"; }

# one_fails CODE TEXT NAME COMMAND... : COMMAND is what the last of three ranks does in place of the others' ablate.
one_fails() {
    local want=$1 text=$2 name=$3 code
    shift 3
    timeout -k 5 60 "${mpirun[@]}" -n 2 "$COAR" ablate "${given[@]}" --masks 3000 -o "$T/bad.h5" : -n 1 "$@" >/dev/null 2>"$T/mpirun.err"
    code=$?
    words "$T/mpirun.err" >"$T/.err"
    if [ "$code" = "$want" ] && [ "$(wc -l <"$T/.err")" = 1 ] && grep -qF -- "$text" "$T/.err"; then
        pass "$name"
    else
        fail "$name"
        note "exit code $code, expected $want and one line with '$text':"
        note "$(tail -n 8 "$T/mpirun.err")"
    fi
}

one_fails 1 "rank 2 ($(hostname)): --model $DIGITS/digits-vit.safetensors: is not the file that rank 0 has" "other weights on one rank" \
    "$COAR" ablate "${given[@]}" --model "$DIGITS/digits-vit.safetensors" --masks 3000 -o "$T/bad.h5"
one_fails 1 "rank 2 ($(hostname)): --data $T/other.h5: is not the file that rank 0 has" "other data on one rank" \
    "$COAR" ablate "${given[@]}" --data "$T/other.h5" --masks 3000 -o "$T/bad.h5"
one_fails 1 "rank 2 ($(hostname)): $T/none.h5: No such file" "no data on one rank" \
    "$COAR" ablate "${given[@]}" --data "$T/none.h5" --masks 3000 -o "$T/bad.h5"
one_fails 2 "rank 2 ($(hostname)): its options are wrong" "a wrong option on one rank" \
    "$COAR" ablate "${given[@]}" --masks none -o "$T/bad.h5"
absent "nothing is begun then" "$T/bad.h5" "$T/bad.h5.parts"
one_fails 2 "--shard is 1/2 here and not given on rank 0" "another shard on one rank" \
    "$COAR" ablate "${given[@]}" --masks 3000 --shard 1/2 -o "$T/bad.h5"
fails 2 "--alpha '7'" "a wrong option on all ranks: one message" ranks 3 ablate "${given[@]}" --alpha 7 -o "$T/none.h5"
fails 1 "$T/none: cannot open" "no weights on all ranks: one message" ranks 3 ablate "${given[@]}" --model "$T/none" -o "$T/none.h5"
fails 1 "$T/none.h5: no such file" "a fit of no run on 3 ranks: one message" ranks 3 fit "$T/none.h5"

# A rank that cannot write any more: from some moment on its files must not grow.
begin 3 ablate "${given[@]}" --masks 3000 -o "$T/bad.h5"
under_way "$T/bad.h5" 300000
prlimit --fsize=1000 --pid "$(last_rank)"
ended
same "a full disk on one rank: exit code" $code 1
same "a full disk on one rank: one message" \
    "$(words "$T/job.err" | sed 's/rank [0-9]* (/rank R (/; s/[^ ]*journal/JOURNAL/')" \
    "coar: rank R ($(hostname)): JOURNAL: cannot write (what was saved before is safe): File too large"
succeeds "two ranks go on" ranks 2 ablate "${given[@]}" --masks 3000 -o "$T/bad.h5"
"$COAR" ablate "${given[@]}" --masks 3000 -o "$T/good.h5" >/dev/null 2>&1
succeeds "the same bytes" compare "$T/good.h5" "$T/bad.h5"

# Killed twice, gone on with by other numbers of ranks. A rank is killed once something is saved; 7.2 MB are all of it.
for n in 3 2; do
    before=$(cat "$T"/killed.h5.parts/*.journal 2>/dev/null | wc -c)
    begin $n ablate "${given[@]}" --masks 9000 -o "$T/killed.h5"
    under_way "$T/killed.h5" $((before + 600000))
    kill -9 "$(last_rank)"
    ended
    [ $code != 0 ]
    same "a rank of $n is killed: the others end, with an exit code" $? 0
done
if [ -e "$T/killed.h5" ] && ! opens "$T/killed.h5"; then fail "the run file opens"; else pass "the run file opens"; fi
saved=$(cat "$T"/killed.h5.parts/*.journal | wc -c)
succeeds "4 ranks finish" ranks 4 ablate "${given[@]}" --masks 9000 -o "$T/killed.h5"
if [ "$saved" -gt 1000000 ]; then pass "what was saved was taken"; else fail "what was saved was taken"; note "$saved bytes"; fi
"$COAR" ablate "${given[@]}" --masks 9000 -o "$T/good.h5" >/dev/null 2>&1
succeeds "the same bytes after kills" compare "$T/good.h5" "$T/killed.h5"

# Stops: one rank hears of it, all end with 3 and everything saved.
stopped() { # name
    ended
    same "$1: exit code" $code 3
    same "$1: one message" "$(words "$T/job.err" | grep -c 'stopped after .* the same command goes on')" "$(words "$T/job.err" | wc -l)"
    same "$1: heartbeats that do not say that they have ended" "$(grep -L '"ended":true' "$T"/long.h5.parts/*.alive | wc -l)" 0
}
begin 3 ablate "${given[@]}" --masks 100000 -o "$T/long.h5"
under_way "$T/long.h5" 100000
kill -TERM "$(last_rank)"
stopped "SIGTERM at one rank"
begin 2 ablate "${given[@]}" --masks 100000 -o "$T/long.h5" --time-limit 1s
stopped "--time-limit"
begin 2 ablate "${given[@]}" --masks 100000 -o "$T/passed.h5"
under_way "$T/passed.h5" 100000
kill -USR1 "$(launcher)"
if mpirun --version 2>/dev/null | grep -q 'Open MPI'; then stopped "SIGUSR1 at mpirun"; else ended; fi

# A rank that hangs, once all of them have met.
export COAR_RANK_SILENCE=4
begin 3 ablate "${given[@]}" --masks 100000 -o "$T/hung.h5"
under_way "$T/hung.h5" 100000
kill -STOP "$(last_rank)"
ended
same "a rank that hangs: exit code" $code 1
same "a rank that hangs: one message" "$(words "$T/job.err")" "coar: rank 2 ($(hostname)) has not been heard from for 4 s: all processes end; what was saved stays, the same command goes on"
finish
