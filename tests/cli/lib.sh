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

finish() { echo "1..$tests"; [ $failures = 0 ]; exit; }
