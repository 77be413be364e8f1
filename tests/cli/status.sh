# status.sh - coar status while a run is computed, killed, resumed and finished; of folders that cannot be written.
. tests/cli/lib.sh
V=$DIGITS/digits-vit.safetensors
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
job() { exec "$COAR" ablate --model "$V" --data "$T/d.h5" --examples 0:300 --masks 60000 --threads 1 -o "$T/r.h5" "$@"; } # minutes: nobody waits for its end

# expect NAME PYTHON: an expression over `s`, the parsed JSON, and `p`, its first stage's processes by shard
expect() {
    if [ -z "${PYTHON:-}" ]; then skip "$1" "no Python"; return; fi
    if "$PYTHON" - "$T/.json" "$2" <<'P'; then pass "$1"; else fail "$1"; note "$(cat "$T/.json")"; fi
import json, sys
s = json.load(open(sys.argv[1]))
first = s["stages"][0] if s["stages"] else {"processes": [], "shards": []}
p = {x["shard"]: x for x in first["processes"]}
sys.exit(not eval(sys.argv[2]))
P
}
status() { "$COAR" status "$T/r.h5" --json >"$T/.json" 2>"$T/.err"; }
# saved SHARD: waits until the process of a shard that works has saved a unit
saved() {
    for _ in $(seq 200); do
        status && tr '{' '\n' <"$T/.json" | grep '"state":"works"' | grep "\"shard\":$1," | grep -q '"units":[1-9]' && return
        sleep .1
    done
    false
}

(job --shard 0/3) >/dev/null 2>&1 &
first=$!
(job --shard 1/3) >/dev/null 2>&1 &
second=$!
succeeds "shard 0 is told to have saved a unit" saved 0
succeeds "shard 1, too" saved 1
expect "both work, with their rates" 'all(p[k]["state"] == "works" and p[k]["images_per_second"] > 0 for k in (0, 1))'
expect "by this host and their pids" "{x['pid'] for x in p.values()} == {$first, $second}"
expect "their last beats are young" 'all(0 <= p[k]["beat_seconds"] < 60 for k in (0, 1))'
expect "the stage's rate is their sum" 'abs(first["images_per_second"] - sum(x["images_per_second"] for x in p.values())) < 1e-3 * first["images_per_second"]'
expect "some units are done, time is left" '0 < first["done"] < first["units"] and first["seconds_left"] > 0'
expect "nobody is at work on shard 2" '[k["processes"] for k in first["shards"]] == [1, 1, 0] and first["shards"][2]["done"] == 0'
expect "shards add up to the stage" 'sum(k["units"] for k in first["shards"]) == first["units"] and sum(k["done"] for k in first["shards"]) == first["done"]'
expect "nothing is finished" 's["finished"] == []'
before=$(cd "$T/r.h5.parts" && sha256sum -- *.json tables.h5)
succeeds "as text" "$COAR" status "$T/r.h5"
if grep -q "pid $first shard 0/3.* works" "$T/.out" && grep -q 'nobody is at work on shard 2/3' "$T/.out"; then pass "which says the same"; else fail "which says the same"; note "$(cat "$T/.out")"; fi
same "it has changed no file" "$(cd "$T/r.h5.parts" && sha256sum -- *.json tables.h5)" "$before"

kill -9 $first; wait $first 2>/dev/null
kill -TERM $second; wait $second 2>/dev/null
same "SIGTERM: exit code" $? 3
status
expect "one is gone, the other has ended" 'p[0]["state"] == "gone" and p[1]["state"] == "ended" and first["seconds_left"] is None'
expect "nobody is at work" 'all(k["processes"] == 0 for k in first["shards"])'
done_units=$("$COAR" status "$T/r.h5" --json | sed 's/.*"done":\([0-9]*\),"fraction.*/\1/')

# A copy that cannot be written. Root may write everywhere but on a file system that is mounted so.
cp "$T/r.h5" "$T/c.h5"; cp -rp "$T/r.h5.parts" "$T/c.h5.parts"
if [ "$(id -u)" != 0 ]; then
    chmod -R a-w "$T/c.h5.parts"
    "$COAR" status "$T/c.h5" --json >"$T/.json"
    expect "of a read-only folder" "not s['file_clock'] and first['done'] == $done_units"
    chmod -R u+w "$T/c.h5.parts"
elif mount --bind "$T/c.h5.parts" "$T/c.h5.parts" 2>/dev/null && mount -o remount,bind,ro "$T/c.h5.parts" 2>/dev/null; then
    "$COAR" status "$T/c.h5" --json >"$T/.json"
    expect "of a read-only folder" "not s['file_clock'] and first['done'] == $done_units"
    umount "$T/c.h5.parts"
else
    umount "$T/c.h5.parts" 2>/dev/null
    skip "of a read-only folder" "root, and nothing can be mounted read-only here"
fi

# Heartbeats are others' files.
alive=$(ls "$T"/c.h5.parts/*.alive | head -n 1)
printf '{"host":"a\\u001b[31mb","pid":7,"start":"1","shard":0,"shards":1,"units":1e15,"images":5,"seconds":2}' >"$alive"
succeeds "a host's name with a control character" "$COAR" status "$T/c.h5"
if grep -q 'a?\[31mb pid 7' "$T/.out"; then pass "is not printed as it is"; else fail "is not printed as it is"; note "$(cat -v "$T/.out")"; fi
for text in '' '{' '[]' '{"host":"a","pid":-1,"shard":0,"shards":1}' '{"host":"a","pid":1,"shard":5,"shards":2}' \
    '{"host":"a","pid":1,"shard":0,"shards":1e99}' '{"host":1,"pid":1,"shard":0,"shards":1}' '{"host":"a","pid":1,"shard":0,"shards":1,"seconds":-1}'; do
    printf '%s' "$text" >"$alive"
    succeeds "a heartbeat that is none: $text" "$COAR" status "$T/c.h5"
done

small() { "$COAR" ablate --model "$V" --data "$T/d.h5" --examples 0:40 --masks 100 --threads 1 -o "$T/r.h5" "$@" >/dev/null 2>&1; }
rm -rf "$T/r.h5" "$T/r.h5.parts"
small --shard 1/2
status
expect "one shard has ended, nothing of the other is done" '[k["done"] for k in first["shards"]] == [0, 1] and p[1]["state"] == "ended"'
small
status
expect "nothing is under way, the outputs are finished" 's["stages"] == [] and s["finished"] == ["outputs-0-99.h5"]'
same "no heartbeat is left" "$(find "$T/r.h5.parts" -name '*.alive')" ""

fails 1 "no such file" "a run that is not there" "$COAR" status "$T/none.h5"
fails 1 "d.h5" "a data file" "$COAR" status "$T/d.h5"
fails 2 "name a run file" "nothing named" "$COAR" status
"$COAR" merge "$T/r.h5" -o "$T/m.h5" >/dev/null 2>&1
fails 1 "merged" "a merged file" "$COAR" status "$T/m.h5"
finish
