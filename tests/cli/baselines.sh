# baselines.sh - evaluate --baselines: scores against PyTorch's definitions of them, conductance's completeness, stops and kills.
. tests/cli/lib.sh
if [ -z "${PYTHON:-}" ]; then
    skip "baselines" "no Python with h5py"
    finish
fi
G=tests/golden/digits
succeeds "pack" "$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5"

# job NET RUN [OPTIONS]: a small run with a fit of its own
job() {
    local net=$1 run=$2
    shift 2
    "$COAR" ablate --model "$DIGITS/digits-$net.safetensors" --data "$T/d.h5" --examples "@$G/examples.npy" --masks 64 --alpha .1 \
        "$@" -o "$run" && "$COAR" fit "$run" --estimator ridge
}
for net in resnet vit; do
    succeeds "$net: a run" job $net "$T/$net.h5"
    succeeds "$net: evaluate --baselines" "$COAR" evaluate "$T/$net.h5" --baselines --json
    same "$net: what is evaluated" "$("$PYTHON" -c "import json; print(*[e['fit'] for e in json.load(open('$T/.out'))['evaluations']])")" \
        "gp ii loo nc ridge"
    succeeds "$net: PyTorch's scores" "$PYTHON" tests/python/baselines.py golden "$T/$net.h5" "$G/$net-baselines.npy"
    absent "$net: nothing of the stages is left" "$T/$net.h5.parts"/baseline-*
done
succeeds "--fit and --baselines" "$COAR" evaluate "$T/resnet.h5" --fit ridge --baselines --alpha .1,.05 --json
same "the fit named, then the baselines" \
    "$("$PYTHON" -c "import json; print(*[e['fit'] for e in json.load(open('$T/.out'))['evaluations']])")" \
    "ridge gp ii loo nc ridge gp ii loo nc"
succeeds "report" "$COAR" report "$T/resnet.h5" -o "$T/page.html"
if grep -q "ridge" "$T/page.html"; then pass "the report shows the fit, not a baseline"; else fail "the report shows the fit"; fi

# Outputs that are not the first have names of their own; threads and memory decide nothing.
succeeds "two outputs" job resnet "$T/two.h5" --output margin,loss
succeeds "their baselines" "$COAR" evaluate "$T/two.h5" --baselines --threads 1
succeeds "the first's are those of one output" "$PYTHON" tests/python/baselines.py golden "$T/two.h5" "$G/resnet-baselines.npy"
same "fits" "$(cd "$T/two.h5.parts" && echo fit-*)" \
    "fit-gp-loss.h5 fit-gp.h5 fit-ii-loss.h5 fit-ii.h5 fit-loo-loss.h5 fit-loo.h5 fit-nc-loss.h5 fit-nc.h5 fit-ridge.h5"
bytes() { "$PYTHON" -c "
import h5py, hashlib, sys
print(*[hashlib.sha256(h5py.File(sys.argv[1])['attributions/' + n + '/weight'][()].tobytes()).hexdigest()[:12] for n in ('loo', 'gp', 'nc', 'ii')])" "$1"; }
same "the same bits on one thread" "$(bytes "$T/two.h5")" "$(bytes "$T/resnet.h5")"

# Under scale:G a mask moves the keep 1 - G as far: so does the gradient with respect to it.
succeeds "scale:0.75" job resnet "$T/scale.h5" --ablation scale:.75
succeeds "its baselines" "$COAR" evaluate "$T/scale.h5" --baselines
succeeds "scale:0.75: a quarter of the gradient" "$PYTHON" -c "
import h5py, numpy, sys
scale, zero = [h5py.File(f)['attributions/gp/weight'][()] for f in sys.argv[1:]]
sys.exit(not numpy.array_equal(scale, zero / 4) and f'{scale} against {zero} / 4')" "$T/scale.h5" "$T/resnet.h5"

# Baselines are in fp32, whatever the run is.
if job resnet "$T/bf16.h5" --precision bf16 >"$T/.out" 2>&1; then
    succeeds "bf16: its baselines" "$COAR" evaluate "$T/bf16.h5" --baselines
    same "bf16: the bits of a run in fp32" "$(bytes "$T/bf16.h5")" "$(bytes "$T/resnet.h5")"
else
    skip "bf16" "$(head -1 "$T/.out")"
fi

# Kills at moments spread over the call; what they leave goes on.
succeeds "a run to kill" job resnet "$T/killed.h5"
for moment in .1 .2 .4 .8; do
    (timeout -s KILL $moment "$COAR" evaluate "$T/killed.h5" --baselines --threads 1) >"$T/.out" 2>&1
done
succeeds "the same command finishes the baselines" "$COAR" evaluate "$T/killed.h5" --baselines
same "what kills change" "$(bytes "$T/killed.h5")" "$(bytes "$T/resnet.h5")"
absent "nothing of killed stages is left" "$T/killed.h5.parts"/baseline-*.{json,journal,alive}

# A name that somebody gave to another fit.
succeeds "a fit called nc" "$COAR" fit "$T/two.h5" --estimator ridge --name nc --force
fails 1 "the name is a baseline's" "a fit of that name is no baseline" "$COAR" evaluate "$T/two.h5" --baselines

# Completeness: everything passes through conv1, so its conductances add up to what the path changes, in fp32 as they are. --arch
# mean=0: a black image is the path's beginning.
"$PYTHON" -c "
import numpy
images, labels = numpy.load('$DIGITS/digits-images.npy')[:4], numpy.load('$DIGITS/digits-labels.npy')[:4]
numpy.save('$T/pairs.npy', numpy.concatenate([images, 0 * images])); numpy.save('$T/labels.npy', numpy.concatenate([labels, labels]))"
succeeds "pack images and black ones" "$COAR" pack --from npy "$T/pairs.npy" --labels "$T/labels.npy" -o "$T/pairs.h5"
succeeds "their run" "$COAR" ablate --model "$DIGITS/digits-resnet.safetensors" --arch resnet,mean=0,std=.4 --data "$T/pairs.h5" \
    --output logit --masks 64 --precision fp32 -o "$T/path.h5"
succeeds "their baselines" "$COAR" evaluate "$T/path.h5" --baselines
succeeds "conductances of conv1 add up" "$PYTHON" tests/python/baselines.py complete "$T/path.h5" conv1 4
finish
