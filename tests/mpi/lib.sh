# lib.sh - for tests of several ranks. Source it after tests/cli/lib.sh; skips everything where there is no MPI.
#   ranks N ARGUMENTS...      coar on N ranks in the foreground; stderr without mpirun's own words
#   begin N ARGUMENTS...      in the background, mpirun being `launcher`; its output is in $T/job.out and $T/job.err
#   processes, last_rank      the pids of its ranks, of the last one
#   ended                     waits for it and for its ranks: sets code
#   words FILE                lines of coar's that are neither figures of memory, warnings nor progress
built=${BUILD:-build}
if ! grep -qs COAR_MPI "${built%/simt}/obj/mpi"; then # what knows no CUDA is compiled once
    skip "several ranks" "this build has no MPI"
    finish
fi
if ! command -v mpirun >/dev/null; then
    skip "several ranks" "there is no mpirun"
    finish
fi
mpirun=(mpirun)
# More ranks than cores, root in a container, no ssh: as tests are run.
mpirun --version 2>/dev/null | grep -q 'Open MPI' && mpirun+=(--oversubscribe --mca plm isolated)
[ "$(id -u)" = 0 ] && export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_orte_tmpdir_base=$T
unset COAR_RANK_SILENCE COAR_MPI

words() { grep '^coar' "$1" | grep -vE '^coar: (warning: |memory: |ablate: [0-9]+ work units)' || true; }

ranks() {
    local n=$1 code
    shift
    timeout -k 5 120 "${mpirun[@]}" -n "$n" "$COAR" "$@" 2>"$T/mpirun.err"
    code=$?
    words "$T/mpirun.err" >&2
    return $code
}

begin() {
    local n=$1
    shift
    timeout -k 5 90 "${mpirun[@]}" -n "$n" "$COAR" "$@" >"$T/job.out" 2>"$T/job.err" &
    job=$!
}

launcher() { pgrep -P "$job"; }

processes() {
    local pid from
    from=$(launcher) || return 0
    for pid in $(pgrep -P "$from"); do
        [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = coar ] && echo "$pid"
    done
}

# The rank that tests do something to: the last.
last_rank() { processes | sort -n | tail -n 1; }

ended() {
    local pids pid tries=0
    pids=$(processes)
    wait "$job"
    code=$?
    for pid in $pids; do
        while kill -0 "$pid" 2>/dev/null && [ $tries -lt 100 ]; do
            tries=$((tries + 1))
            sleep .1
        done
    done
}

# under_way RUN BYTES: waits until that much is in its journals, or the job is gone.
under_way() {
    local tries=0
    while [ "$(cat "$1".parts/*.journal 2>/dev/null | wc -c)" -lt "$2" ] && kill -0 "$job" 2>/dev/null && [ $tries -lt 600 ]; do
        tries=$((tries + 1))
        sleep .05
    done
}
