# slurm.sh - the scripts of examples/slurm/ under a real Slurm: its daemons are started here, on loopback addresses, in a folder
# of their own, with a node of two processors that is this machine. A task of the array is pre-empted and another one killed by a
# requeue; both go on, and the outputs have the bytes of one process's.
. tests/cli/lib.sh
M=$DIGITS/digits-resnet.safetensors
export COAR

reason=
[ "$(id -u)" = 0 ] || reason="slurmd starts jobs as root alone"
for program in munged slurmctld slurmd sbatch scontrol squeue; do
    command -v $program >/dev/null || reason="no $program (Debian: slurm-wlm munge)"
done
if [ -n "$reason" ]; then
    skip "array, fit and MPI jobs under Slurm" "$reason"
    finish
fi

# Two ports that nobody listens on. (Another program may take one before Slurm does: then it does not start.)
free_port() {
    local port
    for _ in $(seq 50); do
        port=$((20000 + RANDOM % 10000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo $port; return; }
    done
}

S=$T/slurm
mkdir -p "$S/munge" "$S/state" "$S/spool"
chmod 755 "$T" "$S" "$S/munge"
head -c 64 /dev/urandom >"$S/munge.key"
chmod 600 "$S/munge.key"
cat >"$S/slurm.conf" <<C
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
AuthType=auth/munge
# a job that is requeued waits until its credentials have expired; 5 s is the least
AuthInfo=socket=$S/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$S/state
SlurmdSpoolDir=$S/spool
SlurmctldPidFile=$S/slurmctld.pid
SlurmdPidFile=$S/slurmd.pid
SlurmctldLogFile=$S/slurmctld.log
SlurmdLogFile=$S/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=100000,bf_interval=1
SlurmdParameters=config_overrides
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
C
export SLURM_CONF=$S/slurm.conf

stop_slurm() {
    [ -e "$S/slurmd.pid" ] && scancel --user=root 2>/dev/null && sleep 1
    for pid in "$S/slurmd.pid" "$S/slurmctld.pid" "$S/munge/pid"; do
        [ -s "$pid" ] && kill "$(cat "$pid")" 2>/dev/null
    done
    for _ in $(seq 50); do
        [ -e "$S/slurmd.pid" ] || [ -e "$S/slurmctld.pid" ] || break
        sleep .1
    done
    rm -rf "$T"
}
trap stop_slurm EXIT

# node_idle: within ten seconds
node_idle() {
    for _ in $(seq 100); do
        [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && return
        sleep .1
    done
    false
}
{
    munged --key-file="$S/munge.key" --socket="$S/munge/socket" --pid-file="$S/munge/pid" --log-file="$S/munge/log" \
        --seed-file="$S/munge/seed" --num-threads=1 && slurmctld && slurmd -N localhost && node_idle
} >"$S/start.log" 2>&1
if [ $? != 0 ]; then
    skip "array, fit and MPI jobs under Slurm" "it does not start here: $(cat "$S/start.log" "$S"/slurm*.log | grep -iE 'error|fatal' | tail -n 1)"
    finish
fi

"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
cd "$T" || exit 1 # logs are written where sbatch is called
root=$OLDPWD examples=$OLDPWD/examples/slurm
# some seconds for each of four tasks, of which two run at once
job=(--model "$M" --data "$T/d.h5" --masks 1000 --alpha .1)

# compared NAME RUN: its data sets are those of one process
compared() {
    local file
    if [ -z "${PYTHON:-}" ]; then
        skip "$1" "no Python with h5py"
        return
    fi
    for file in "$2" one; do
        "$COAR" merge $file.h5 -o $file-merged.h5 --force >/dev/null 2>&1
        # those of the passes alone
        "$PYTHON" -c "
import h5py, sys
with h5py.File(sys.argv[1], 'a') as f:
    f.pop('attributions', None)
    f.pop('evaluation', None)" $file-merged.h5
    done
    succeeds "$1" "$PYTHON" "$root/tests/python/compare_runs.py" "$2-merged.h5" one-merged.h5
}
# ended JOB SECONDS: waits until nothing of it is in the queue
ended() {
    for _ in $(seq $(($2 * 5))); do
        [ -z "$(squeue -h -r -j "$1" 2>/dev/null)" ] && return
        sleep .2
    done
    scontrol show job "$1" | grep -E 'JobState|Reason' >&2
    false
}
# computes RUN JOB...: waits until all of them have saved a unit
computes() {
    local run=$1 task there
    shift
    for _ in $(seq 100); do
        "$COAR" status "$run" --json 2>/dev/null | tr '{' '\n' >status.json
        there=0
        for task in "$@"; do grep "\"job\":\"$task\"" status.json | grep -q '"state":"works".*"units":[1-9]' && there=$((there + 1)); done
        [ $there = $# ] && return
        sleep .1
    done
    cat status.json >&2
    false
}

# --- the array
array=$(sbatch --parsable --array=0-3 "$examples/array.sbatch" "${job[@]}" -o run.h5)
fit=$(sbatch --parsable --dependency=afterok:"$array" "$examples/fit.sbatch" run.h5 --estimator ols)
succeeds "two tasks are at work, and coar status knows their jobs" computes run.h5 "${array}_0" "${array}_1"
# As --signal=B:TERM and pre-emption do. (scancel delivers it, and then asks again for minutes whether the job may be altered.)
timeout 2 scancel --signal=TERM --batch "${array}_0" 2>/dev/null
scontrol requeue "${array}_1" # ended by SIGTERM, and after KillWait by SIGKILL
succeeds "all tasks end" ended "$array" 120
log=coar-${array}_0.log
if grep -q 'everything is saved' "$log"; then pass "the pre-empted task saved its units"; else fail "the pre-empted task saved its units"; note "$(cat "$log")"; fi
if grep -q 'shard 0/4: into the queue again' "$log" && grep -q 'start 2' "$log"; then pass "it was requeued and went on"; else fail "it was requeued and went on"; note "$(cat "$log")"; fi
if grep -q 'start 2' "coar-${array}_1.log"; then pass "so was the task that was requeued"; else fail "so was the task that was requeued"; note "$(cat "coar-${array}_1.log")"; fi
succeeds "one process's run" "$COAR" ablate "${job[@]}" --threads 1 -o one.h5
compared "the array's outputs are those of one process" run
succeeds "the dependent job ends" ended "$fit" 60
if grep -q '^ols ' "coar-fit-$fit.log"; then pass "it has fitted and evaluated the run"; else fail "it has fitted and evaluated the run"; note "$(cat "coar-fit-$fit.log")"; fi

# --- ranks: two of them, stopped and requeued
if ! grep -qs COAR_MPI "$root/${BUILD:-build}/obj/mpi"; then
    skip "an MPI job under Slurm" "this build has no MPI"
    finish
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
srun --mpi=list 2>&1 | grep -qw pmix || export LAUNCH="mpirun --bind-to none" # Debian's Slurm has it in slurm-wlm-basic-plugins
mpi=$(sbatch --parsable --ntasks=2 "$examples/mpi.sbatch" "${job[@]}" -o ranks.h5)
log=coar-mpi-$mpi.log
succeeds "the ranks are at work" computes ranks.h5 "$mpi"
timeout 2 scancel --signal=TERM --batch "$mpi" 2>/dev/null
succeeds "the job ends" ended "$mpi" 120
if grep -q 'everything is saved' "$log" && grep -q 'start 2' "$log"; then pass "it was stopped, requeued and went on"; else fail "it was stopped, requeued and went on"; note "$(cat "$log")"; fi
compared "the ranks' outputs are those of one process" ranks
finish
