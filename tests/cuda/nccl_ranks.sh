# nccl_ranks.sh - fits on several ranks, each with a device, over MPI and the stand-ins: NCCL adds up where each rank has a device of
# its own, MPI where they share one, and the weights have the same bytes; failures end all ranks with one message.
. tests/cli/lib.sh
. tests/mpi/lib.sh
if [ -z "${PYTHON:-}" ]; then
    skip "fits over NCCL" "no Python with h5py"
    finish
fi
if "$COAR" selftest --comm --backend cuda --bytes 8 2>&1 | grep -q "made without the header of NCCL"; then
    skip "fits over NCCL" "no header of NCCL 2.14 or later"
    finish
fi
"$PYTHON" - "$T" <<'END'
import sys
import numpy
generator = numpy.random.default_rng(1)
masks = generator.random((4100, 40)) < .8
numpy.save(sys.argv[1] + "/masks.npy", masks.astype(numpy.uint8))
weights = generator.standard_normal((40, 7))
numpy.save(sys.argv[1] + "/outputs.npy", (masks @ weights + .1 * generator.standard_normal((4100, 7))).astype(numpy.float32))
END
same_fits() {
    "$PYTHON" - "$@" <<'END'
import sys
import h5py
import numpy
a, b = (h5py.File(name) for name in sys.argv[1:])
names = []
a.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
sys.exit(not names or any(a[n][()].tobytes() != b[n][()].tobytes() for n in names))
END
}
fit() { # command... FILE
    local file=${*: -1}
    set -- "${@:1:$#-1}"
    "$@" fit --masks "$T/masks.npy" --outputs "$T/outputs.npy" --estimator ols --standard-errors --backend cuda --threads 1 --memory "${memory:-1G}" -o "$file" >/dev/null
}
unlinked="sums of devices go over MPI and not NCCL"
export COAR_STANDIN_DEVICES=3 TMPDIR=$T

succeeds "one process" fit "$COAR" "$T/one.h5"
for n in 2 3; do
    succeeds "$n ranks, a device each" fit ranks $n "$T/linked$n.h5"
    same "$n ranks: NCCL is used" "$(grep -c "$unlinked" "$T/mpirun.err")" 0
    succeeds "$n ranks: the same bytes" same_fits "$T/one.h5" "$T/linked$n.h5"
done
memory=100000 succeeds "devices with little memory" fit ranks 2 "$T/small.h5"
succeeds "in pieces: the same bytes" same_fits "$T/one.h5" "$T/small.h5"
COAR_STANDIN_DEVICES=1 succeeds "2 ranks on one device" fit ranks 2 "$T/shared.h5"
same "2 ranks on one device: a line says so" "$(grep -c "$unlinked: ranks 0 and 1 have the same device" "$T/mpirun.err")" 1
succeeds "2 ranks on one device: the same bytes" same_fits "$T/one.h5" "$T/shared.h5"
COAR_STANDIN_FAIL=ncclCommInitRankConfig:0:2 succeeds "NCCL refuses" fit ranks 2 "$T/refused.h5"
same "NCCL refuses: a line says so" "$(grep -c "$unlinked: NCCL: start: unhandled system error" "$T/mpirun.err")" 1
succeeds "NCCL refuses: the same bytes" same_fits "$T/one.h5" "$T/refused.h5"

export COAR_RANK_SILENCE=2
COAR_STANDIN_NCCL=hang:1:0 fails 1 "NCCL: sum: " "a rank that hangs in NCCL: one message" fit ranks 2 "$T/bad.h5"
COAR_STANDIN_NCCL=error:1:1:1 fails 1 "NCCL: sum: " "an error that NCCL reports later: one message" fit ranks 2 "$T/bad.h5"
absent "nothing is left of a fit that failed" "$T/bad.h5"
unset COAR_RANK_SILENCE

ranks 2 selftest --comm --backend cuda --bytes 1M >"$T/comm"
same "selftest --comm: exit code" $? 0
same "selftest --comm: by MPI" "$(grep -cE '^ok +MPI ' "$T/comm")" 10
same "selftest --comm: by NCCL" "$(grep -cE '^ok +NCCL ' "$T/comm")" 10
"$COAR" selftest --comm --backend cuda --bytes 1K >"$T/alone"
same "selftest --comm, alone: by NCCL" "$(grep -cE '^ok +NCCL ' "$T/alone")" 6
finish
