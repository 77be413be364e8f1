# merge.sh - several runs of one job in separate folders become one: shards of different counts, of interrupted jobs, of finished
# ones; what overlaps must be equal, what is missing or broken is named and made again alone.
. tests/cli/lib.sh
R=$DIGITS/digits-resnet.safetensors
if [ -z "${PYTHON:-}" ]; then
    skip "merging runs" "no Python with h5py"
    finish
fi
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
plain() { "$COAR" ablate --model "$R" --data "$T/d.h5" --output margin,loss --threads 1 "$@"; }
job() { plain --examples 0:70 --masks 700 "$@"; } # 11 units
merge() { # OUTPUT RUN|OPTION...
    local word words=()
    for word in "${@:2}"; do
        case $word in -*) words+=("$word") ;; *) words+=("$T/$word.h5") ;; esac
    done
    "$COAR" merge "${words[@]}" -o "$T/$1.h5"
}
# equal NAME FILE: has the data sets of one process's run
equal() { succeeds "$1" "$PYTHON" tests/python/compare_runs.py "$T/whole.h5" "$T/$2.h5"; }

succeeds "one process" job -o "$T/one.h5"
merge whole one >/dev/null 2>&1
for k in 0 1 2 3 4; do job --shard $k/5 -o "$T/of5-$k.h5" >/dev/null 2>&1; done
for k in 0 1 2; do job --shard $k/3 -o "$T/of3-$k.h5" >/dev/null 2>&1; done
succeeds "five shards" merge five of5-0 of5-1 of5-2 of5-3 of5-4
equal "are one process's run" five
succeeds "shards 0/5, 1/5, 0/3, 1/3, 2/3, some of whose units overlap" merge mixed of5-0 of3-0 of5-1 of3-1 of3-2
equal "are one process's run" mixed
succeeds "a finished run and shards of it" merge both of3-1 one of5-4
equal "are one process's run" both
succeeds "the one run is merged in another order" merge order of5-4 of5-3 of5-2 of5-1 of5-0
equal "with the same data sets" order
same "nothing is left beside them" "$(find "$T" -name '*joined*')" ""

# --- missing
fails 1 "2 of 11 units are in none of the runs (4, 9, all of shard 4/5)" "a missing shard is named" merge miss of5-0 of5-1 of5-2 of5-3
fails 1 "(2, 3, 4, 7, 8, 9)" "missing units are named" merge miss of5-0 of5-1
absent "nothing was written" "$T/miss.h5" "$T/miss.h5.parts"
same "nor left" "$(find "$T" -name '*joined*')" ""
succeeds "--run takes what there is" merge part of5-0 of5-1 of5-2 of5-3 --run
if grep -q '9 of 11 units are there' "$T/.out"; then pass "and says so"; else fail "and says so"; note "$(cat "$T/.out")"; fi
succeeds "its command goes on there" job -o "$T/part.h5"
if grep -q ' 2 of 11 units' "$T/.out"; then pass "with the missing units alone"; else fail "with the missing units alone"; note "$(cat "$T/.out")"; fi
merge part1 part >/dev/null 2>&1
equal "and ends with one process's run" part1
succeeds "--run of all shards" merge run of5-0 of5-1 of5-2 of5-3 of5-4 --run
succeeds "is complete" job -o "$T/run.h5"
if grep -q 'nothing to do' "$T/.out"; then pass "and says so"; else fail "and says so"; note "$(cat "$T/.out")"; fi
succeeds "it can be fitted" "$COAR" fit "$T/run.h5" --estimator ridge
fails 1 "run.h5.parts" "a run is never replaced" merge run of5-0 of5-1 --force
fails 2 "--run" "--run of one run" merge x one --run
fails 2 "named twice" "a run twice" merge x of5-0 of5-1 of5-0

# --- an interrupted job: its units and those of shards elsewhere
job --time-limit 0.05s -o "$T/stopped.h5" >/dev/null 2>&1
same "the job was interrupted" $? 3
succeeds "an interrupted job and three shards" merge resumed stopped of3-0 of3-1 of3-2
equal "are one process's run" resumed

# --- broken shards: a record, a header, a part
flip() { "$PYTHON" -c "
import sys
with open(sys.argv[1], 'r+b') as f:
    f.seek(int(sys.argv[2])); b = f.read(1)[0]; f.seek(-1, 1); f.write(bytes([b ^ 4]))" "$@"; }
copy() { cp "$T/$1.h5" "$T/$2.h5"; rm -rf "$T/$2.h5.parts"; cp -r "$T/$1.h5.parts" "$T/$2.h5.parts"; }
copy of5-4 broken
flip "$(ls "$T"/broken.h5.parts/*.journal)" 5000 # its first record's payload
fails 1 "1 of 11 units are in none of the runs (4," "a damaged record is missing" merge x of5-0 of5-1 of5-2 of5-3 broken
if grep -q 'broken.h5.parts/.*unit 4 .* is damaged' "$T/.err"; then pass "and its journal is named"; else fail "and its journal is named"; note "$(cat "$T/.err")"; fi
succeeds "the shard's command again" job --shard 4/5 -o "$T/broken.h5"
if grep -q ' 1 of 11 units' "$T/.out"; then pass "makes that unit alone"; else fail "makes that unit alone"; note "$(cat "$T/.out")"; fi
succeeds "then they merge" merge mended of5-0 of5-1 of5-2 of5-3 broken
equal "to one process's run" mended
copy of5-4 broken
flip "$(ls "$T"/broken.h5.parts/*.journal)" 20
fails 1 "(4, 9, all of shard" "a damaged header" merge x of5-0 of5-1 of5-2 of5-3 broken
copy one broken
truncate -s 3000 "$T"/broken.h5.parts/outputs-*.h5
fails 1 "broken.h5.parts/outputs-0-699.h5" "a damaged part" merge x broken of5-0

# --- units that differ: other values under right checksums
job --seed 5 --shard 3/5 -o "$T/seed5.h5" >/dev/null 2>&1
copy of5-3 liar
foreign=$(ls "$T"/seed5.h5.parts/*.journal)
"$PYTHON" - "$foreign" "$(ls "$T"/liar.h5.parts/*.journal)" <<'P'
import sys
foreign, own = (open(name, "rb").read() for name in sys.argv[1:])
open(sys.argv[2], "wb").write(own[:64] + foreign[64:])  # the other seed's records under this run's header
P
fails 1 "liar.h5.parts/" "a unit that two shards hold differently: the one" merge x of3-0 of3-1 of3-2 liar
if grep -q 'unit [38] is not what .*of3-.*holds' "$T/.err"; then pass "and the other, and the unit"; else fail "and the other, and the unit"; note "$(cat "$T/.err")"; fi
fails 1 "liar.h5.parts/" "or that a finished run holds differently" merge x liar one
if grep -q 'unit 3 is not what .*one.h5 holds' "$T/.err"; then pass "which is named, too"; else fail "which is named, too"; note "$(cat "$T/.err")"; fi
succeeds "another seed's run" plain --examples 0:70 --masks 700 --seed 5 -o "$T/other.h5"
cp "$T"/one.h5.parts/manifest.json "$T/other.h5.parts/manifest.json"
fails 1 "two machines disagree" "two finished runs that differ" merge x one other

# --- settings that differ
fails 1 "--seed (seed) is 5, $T/of5-0.h5 has 0" "another seed" merge x of5-0 seed5
plain --examples 0:70 --masks 700 --alpha .2 --shard 1/5 -o "$T/alpha.h5" >/dev/null 2>&1
fails 1 "--alpha (alpha) is 0.2, $T/of5-0.h5 has 0.05" "another alpha" merge x of5-0 alpha
job --sampler fixed --shard 1/5 -o "$T/fixed.h5" >/dev/null 2>&1
fails 1 "--sampler (sampler) is fixed" "another sampler" merge x of5-0 fixed
plain --examples 1:71 --masks 700 --shard 1/5 -o "$T/examples.h5" >/dev/null 2>&1
fails 1 "--examples" "other examples" merge x of5-0 examples
fails 1 "no such file" "a run that is not there" merge x of5-0 none
fails 1 "d.h5" "a data file among them" merge x of5-0 d
fails 1 "merged" "a merged file among them" merge x of5-0 five

# --- what else a run's part holds: stored masks, f16; extensions; gradients
masks() { plain --examples 0:9 --masks 500 --store-masks --store f16 --sampler stratified "$@"; } # 3 units
masks -o "$T/whole-masks.h5" >/dev/null 2>&1
merge whole whole-masks --force >/dev/null 2>&1
for k in 0 1; do masks --shard $k/2 -o "$T/masks-$k.h5" >/dev/null 2>&1; done
succeeds "stored masks and f16" merge masks masks-0 masks-1
equal "are one process's" masks
job --masks 900 -o "$T/one.h5" >/dev/null 2>&1
merge whole one --force >/dev/null 2>&1
for k in 0 1; do
    copy run grown-$k
    job --masks 900 --shard $k/2 -o "$T/grown-$k.h5" >/dev/null 2>&1
done
succeeds "a finished run, extended by two shards in copies of it" merge grown grown-0 grown-1
equal "is one process's" grown
reverse() { "$COAR" gradients --model "$R" --data "$T/d.h5" --examples 0:70 --passes 4 --threads 1 "$@"; } # 3 units
reverse -o "$T/whole-reverse.h5" >/dev/null 2>&1
merge whole whole-reverse --force >/dev/null 2>&1
for k in 0 1; do reverse --shard $k/2 -o "$T/reverse-$k.h5" >/dev/null 2>&1; done
succeeds "gradients of two shards" merge reverse reverse-0 reverse-1
equal "are one process's" reverse
copy reverse-0 reverse-2
fails 1 "gradients-0: 1 of 3 units" "a missing shard of gradients" merge x reverse-0 reverse-2
finish
