# command.sh - the command line with the CUDA backend, over the shim and the stand-ins: several devices, devices that fail, none at
# all, and the self-test.
. tests/cli/lib.sh
R=$DIGITS/digits-resnet.safetensors
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null

# Eight work units of at most 64 masks. What decides nothing about them is left to each call.
job() { "$COAR" ablate --backend cuda --precision fp32 --exact --model "$R" --data "$T/d.h5" --examples 0:1 --masks 500 --alpha .1 --threads 2 "$@"; }
same_run() { # NAME FILE: the data sets have the bytes of one device's run
    if [ -n "${PYTHON:-}" ]; then
        succeeds "$1" "$PYTHON" tests/python/compare_runs.py "$T/one.h5" "$2"
    else
        skip "$1" "no Python with h5py"
    fi
}

succeeds "one device" job -o "$T/one.h5"
export COAR_STANDIN_DEVICES=2
succeeds "two devices" job -o "$T/two.h5"
same_run "two devices give the bytes of one" "$T/two.h5"
succeeds "the second device alone" job --devices 1 -o "$T/second.h5"
same_run "so does the second one alone" "$T/second.h5"

# The first device computes the baseline, so it is sure to get work; tests/unit/workers has devices that die later.
export COAR_STANDIN_KILL=0:1:719
succeeds "a device that dies: the other does its work" job -o "$T/dies.h5"
same "with one warning" "$(grep -c '^coar: warning: .*device 0' "$T/.err")" 1
same_run "and the same bytes" "$T/dies.h5"

# The only device that is used dies after some kernels: what it had finished is saved.
export COAR_STANDIN_KILL=0:20:719
fails 1 "the same command goes on" "the last device dies" job --devices 0 -o "$T/last.h5"
unset COAR_STANDIN_KILL
succeeds "the same command goes on" job -o "$T/last.h5"
same_run "to the same bytes" "$T/last.h5"

fails 2 "devices 0 to 1" "a device that is not there" job --devices 2 -o "$T/x.h5"
fails 2 "--devices" "a device twice" job --devices 1,1 -o "$T/x.h5"
fails 2 "--devices" "no number" job --devices gpu -o "$T/x.h5"
absent "nothing was begun" "$T/x.h5" "$T/x.h5.parts"

COAR_STANDIN_DEVICES=0 fails 1 "--backend cuda" "no device" job -o "$T/x.h5"
COAR_STANDIN_DRIVER=0 fails 1 "driver" "no driver" job -o "$T/x.h5"
COAR_STANDIN_DRIVER=11040 fails 1 "driver" "an old driver" job -o "$T/x.h5"
COAR_STANDIN_CAPABILITY=7.5 fails 1 "7.5" "an old device" job -o "$T/x.h5"
COAR_STANDIN_MEMORY=65536 fails 1 "memory" "a device with too little memory" job -o "$T/x.h5"

# One precision; the host tests have them all.
succeeds "selftest" "$COAR" selftest --quick --backend cuda --precision bf16
same "selftest ends with its sum" "$(tail -n 1 "$T/.out" | grep -c '68 cases, 0 failed')" 1
export COAR_STANDIN_DEVICES=0
fails 1 "--backend cuda" "selftest without a device" "$COAR" selftest --backend cuda
finish
