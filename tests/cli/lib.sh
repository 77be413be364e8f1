# lib.sh - TAP for shell tests of the command line. Source it; end with `finish`.
# COAR: the program; $T: a fresh folder, removed at the end.
COAR=$PWD/${BUILD:-build}/coar
T=$(mktemp -d "${TMPDIR:-/tmp}/coar-cli-XXXXXX")
trap 'chmod -R u+rwx "$T" 2>/dev/null; rm -rf "$T"' EXIT
DIGITS=$PWD/data
SHARED=${COAR_SHARED:-../shared}
tests=0 failures=0

pass() { tests=$((tests + 1)); echo "ok $tests - $*"; }
fail() { tests=$((tests + 1)); failures=$((failures + 1)); echo "not ok $tests - $*"; }
skip() { tests=$((tests + 1)); echo "ok $tests - $1 # SKIP $2"; }
note() { sed 's/^/# /' <<<"$*"; }

# succeeds NAME COMMAND...: exit code 0; stdout in $T/.out, stderr in $T/.err
succeeds() {
    local name=$1
    shift
    "$@" >"$T/.out" 2>"$T/.err"
    local code=$?
    if [ $code = 0 ]; then pass "$name"; else fail "$name"; note "exit code $code: $*"; note "$(tail -n 5 "$T/.err")"; fi
}

# fails CODE TEXT NAME COMMAND...: that exit code, stdout empty, the last line of stderr contains TEXT and it is the only line
# that is neither a log line of progress nor a warning.
fails() {
    local want=$1 text=$2 name=$3 code lines
    shift 3
    "$@" >"$T/.out" 2>"$T/.err"
    code=$?
    lines=$(grep -cvE '^coar: (warning: |memory: )' "$T/.err")
    # shellcheck disable=SC2053 # the expected code may be a pattern
    if [[ $code == $want ]] && [ "$lines" = 1 ] && tail -n 1 "$T/.err" | grep -qF -- "$text"; then
        pass "$name"
    else
        fail "$name"
        note "got exit code $code and $lines error lines, expected $want and one line with '$text': $*"
        note "$(tail -n 5 "$T/.err")"
    fi
}

# same NAME A B
same() {
    if [ "$2" = "$3" ]; then pass "$1"; else fail "$1"; note "got '$2', expected '$3'"; fi
}

# absent NAME FILE...: none of the files exists (nothing half-written)
absent() {
    local name=$1 file
    shift
    for file in "$@"; do
        if [ -e "$file" ]; then fail "$name"; note "$file exists"; return; fi
    done
    pass "$name"
}

milliseconds() { echo $(($(date +%s%N) / 1000000)); }
# Sleeps for a random part of so many milliseconds.
moment() { sleep "$(awk -v t="$1" -v r=$RANDOM 'BEGIN {print t * r / 32768 / 1000}')"; }
opens() { "$PYTHON" -c "import h5py, sys; h5py.File(sys.argv[1])" "$1" 2>/dev/null; }

# kill_often COUNT MILLISECONDS RUN COMMAND...: kill -9 at random moments of a command that takes so long, until COUNT of them hit
# it. What a kill leaves goes on at the next try; a run that ended before its kill starts over, and is taken to be shorter by a
# tenth: what else the machine did while it was timed may be over. Sets kills, and broken: how often RUN did not open afterwards.
kill_often() {
    local wanted=$1 took=$2 run=$3 attempts=0 pid
    shift 3
    kills=0 broken=0
    while [ $kills -lt "$wanted" ] && [ $attempts -lt $((5 * wanted)) ]; do
        attempts=$((attempts + 1))
        "$@" >/dev/null 2>"$T/.err" &
        pid=$!
        moment "$took"
        kill -9 $pid 2>/dev/null
        wait $pid 2>/dev/null
        if [ $? = 137 ]; then kills=$((kills + 1)); else
            rm -rf "$run" "$run.parts"
            took=$((took * 9 / 10))
        fi
        if [ -e "$run" ] && ! opens "$run"; then broken=$((broken + 1)); fi
    done
}

finish() { echo "1..$tests"; [ $failures = 0 ]; exit; }
