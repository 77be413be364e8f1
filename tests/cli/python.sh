# python.sh - Debian's h5py and numpy read everything: run.h5, its parts, the merged file; a fit made from .npy files.
. tests/cli/lib.sh
if [ -z "${PYTHON:-}" ]; then
    skip "h5py opens everything" "no Python with numpy and h5py"
    finish
fi
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
succeeds "a run with two outputs, two fits and two alphas" "$COAR" run --model "$DIGITS/digits-resnet.safetensors" \
    --data "$T/d.h5" --examples 0:100 --alpha .1 --masks 400 --output margin,loss --estimator ols,ridge --eval-alpha .1,.05 \
    --eval-masks 70 --store-masks --standard-errors -o "$T/run.h5"
succeeds "extended" "$COAR" ablate --model "$DIGITS/digits-resnet.safetensors" --data "$T/d.h5" --examples 0:100 --alpha .1 \
    --masks 500 --output margin,loss --store-masks -o "$T/run.h5"
succeeds "merged" "$COAR" merge "$T/run.h5" -o "$T/one.h5"
"$PYTHON" tests/python/open_everything.py "$T/run.h5" "$T/one.h5" >"$T/.tap" 2>"$T/.err"
while read -r line; do
    case $line in
    "ok "*) pass "h5py: ${line#ok * - }" ;;
    "not ok "*) fail "h5py: ${line#not ok * - }" ;;
    "#"*) echo "$line" ;;
    esac
done <"$T/.tap"
same "h5py: the script ended well" "$(tail -n 1 "$T/.err")" ""

# The same fit from arrays: masks by `coar masks`, outputs by h5py.
succeeds "coar masks" "$COAR" masks "$T/run.h5" -o "$T/M.npy"
"$PYTHON" -c "import h5py, numpy; numpy.save('$T/Y.npy', h5py.File('$T/run.h5')['ablations/margin'][()])"
succeeds "fit from .npy" "$COAR" fit --masks "$T/M.npy" --outputs "$T/Y.npy" --estimator ols -o "$T/a.h5"
succeeds "fit from the run" "$COAR" fit "$T/run.h5" --estimator ols --force
same "both fits agree with each other and with numpy's least squares" "$("$PYTHON" -c "
import h5py, numpy as np
run, npy = h5py.File('$T/run.h5')['attributions/ols/weight'][()], h5py.File('$T/a.h5')['attributions/ols/weight'][()]
M, Y = np.load('$T/M.npy').astype(float), np.load('$T/Y.npy').astype(float)
X = np.hstack([M, np.ones((len(M), 1))])
w = np.linalg.lstsq(X, Y, rcond=None)[0][:-1].T
print(np.array_equal(run, npy), abs(run - w).max() < 1e-4 * abs(w).max())" 2>&1)" "True True"

# Outputs that never change have neither an R^2 nor a correlation.
"$PYTHON" -c "import numpy; numpy.save('$T/flat.npy', numpy.ones((500, 3), 'f4'))"
succeeds "a fit of constant outputs" "$COAR" fit --masks "$T/M.npy" --outputs "$T/flat.npy" --estimator ols -o "$T/flat.h5"
same "no R^2 is printed as -" "$(grep -o 'R^2 [^ ]* held-out correlation [^ ]*' "$T/.out")" "R^2 -, held-out correlation -,"
succeeds "fresh masks that ablate nothing" "$COAR" evaluate "$T/run.h5" --fit ols --alpha 1e-12 --masks 3
same "no correlation is printed as -" "$(awk '$1 == "ols" {print $5, $6}' "$T/.out")" "- -"
same "the examples left out are counted among all" "$(tail -n 1 "$T/.out")" "  (100 of them have no variance and are left out of the means)"
finish
