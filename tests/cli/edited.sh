# edited.sh - what coar edit leaves: weights as numpy reads them, and a section of the report.
. tests/cli/lib.sh
if [ -z "${PYTHON:-}" ]; then
    skip "edited weights" "no Python with numpy and h5py"
    finish
fi
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
edited() { # NET COMPONENTS MASKS OPTIONS...: a run of the test rows, an edit with its weights
    local net=$1 set=$2 masks=$3
    shift 3
    "$COAR" ablate --model "$DIGITS/digits-$net.safetensors" --components "$set" --data "$T/d.h5" \
        --examples "@$DIGITS/digits-test-rows.npy" --masks "$masks" --alpha .1 -o "$T/$net.h5" &&
        "$COAR" fit "$T/$net.h5" --estimator ridge &&
        "$COAR" edit "$T/$net.h5" --target "@$T/t.npy" --reference "@$T/f.npy" --lower --select 50 -o "$T/$net.safetensors" "$@"
}
"$PYTHON" -c "
import numpy as np
labels, rows = np.load('$DIGITS/digits-labels.npy'), np.load('$DIGITS/digits-test-rows.npy')
np.save('$T/t.npy', rows[labels[rows] == 3][:10])
np.save('$T/f.npy', rows[labels[rows] != 3][:50])"

succeeds "edited filters" edited resnet filters 300 --max-k 6 --name three --compare
same "are what numpy makes of the weights" "$("$PYTHON" tests/python/edited_weights.py "$T/resnet.h5" three \
    "$DIGITS/digits-resnet.safetensors" "$T/resnet.safetensors" 2>&1)" ""
succeeds "edited heads" edited vit heads 100 --max-k 3
same "are what numpy makes of the weights too" "$("$PYTHON" tests/python/edited_weights.py "$T/vit.h5" edit \
    "$DIGITS/digits-vit.safetensors" "$T/vit.safetensors" 2>&1)" ""
succeeds "coar info of the edited weights" "$COAR" info "$T/vit.safetensors"

succeeds "a report of the run" "$COAR" report "$T/resnet.h5" -o "$T/r.html"
has() { grep -qF -- "$1" "$T/r.html" && pass "$2" || fail "$2"; }
has '<h2>Edit three</h2>' "has the edit's section"
has 'curve target' "the sweep"
has 'Fresh targets' "the fresh examples that the edit took by itself"
has '<td>random</td>' "the comparison"
has 'class="card turn"' "examples before and after"
succeeds "a report of the other run" "$COAR" report "$T/vit.h5" -o "$T/r.html" --force
has 'blocks.0.attn.heads' "by component groups"
finish
