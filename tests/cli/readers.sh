# readers.sh - h5py and numpy open everything: run.h5, its parts, the merged file; also after the run was moved and extended.
. tests/cli/lib.sh
if [ -z "${PYTHON:-}" ]; then
    skip "h5py opens run files" "no Python with h5py"
    finish
fi
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
ablate() { "$COAR" ablate --model "$DIGITS/digits-resnet.safetensors" --data "$T/d.h5" --examples 0:150 --alpha .1 --seed 7 \
    --output margin,loss --threads 2 "$@"; }

# reads NAME RUN MERGED: the checks of the Python program count as ours
reads() {
    local name=$1 line
    shift
    while read -r line; do
        case $line in
        "ok "*) pass "$name: ${line#ok * - }" ;;
        "not ok "*) fail "$name: ${line#not ok * - }" ;;
        "#"*) echo "$line" ;;
        esac
    done < <("$PYTHON" tests/python/open_everything.py "$@" 2>&1 | tee "$T/.out")
    if ! grep -q '^1\.\.' "$T/.out"; then fail "$name: the reader ended early"; note "$(tail -n 5 "$T/.out")"; fi
}

succeeds "a run in one go" "$COAR" run --model "$DIGITS/digits-resnet.safetensors" --data "$T/d.h5" --examples 0:150 --alpha .1 \
    --masks 500 --seed 7 --output margin,loss --estimator ols,ridge --eval-masks 60 --eval-alpha .1,.05 --threads 2 -o "$T/run.h5"
succeeds "its merged file" "$COAR" merge "$T/run.h5" -o "$T/one.h5"
reads "run" "$T/run.h5" "$T/one.h5"

succeeds "100 masks as f16" ablate --masks 100 --store f16 --store-masks -o "$T/small.h5"
succeeds "extended to 230" ablate --masks 230 --store f16 --store-masks -o "$T/small.h5"
mkdir "$T/100% moved"
mv "$T/small.h5" "$T/small.h5.parts" "$T/100% moved/"
succeeds "merged where it was moved to" "$COAR" merge "$T/100% moved/small.h5" -o "$T/two.h5"
reads "extended f16 run" "$T/100% moved/small.h5" "$T/two.h5"
finish
