# edit.sh - coar edit: tau and its order against numpy, the sweep against coar ablate of the same masks, sets of two runs, stops and
# kills, what is refused.
. tests/cli/lib.sh
if [ -z "${PYTHON:-}" ]; then
    skip "edit" "no Python with h5py"
    finish
fi
check() { "$PYTHON" tests/python/edit.py "$@"; }
json() { "$PYTHON" -c "import json, sys; r = json.load(open('$T/.out')); print($1)"; }
MODEL=$DIGITS/digits-resnet.safetensors

"$PYTHON" -c "
for row in range(1797): print(f'{row},{\"even\" if row % 2 == 0 else \"odd\"}')" >"$T/groups.csv"
succeeds "pack, with groups" "$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" \
    --groups "$T/groups.csv" -o "$T/d.h5"
succeeds "pack, without" "$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/plain.h5"
succeeds "rows" check rows "$DIGITS/digits-labels.npy" "$DIGITS/digits-test-rows.npy" "$T"
run() { # RUN DATA [OPTIONS]: a run with a fit
    local run=$1 data=$2
    shift 2
    "$COAR" ablate --model "$MODEL" --data "$data" --examples "@$DIGITS/digits-test-rows.npy" --masks 120 --alpha .1 "$@" -o "$run" &&
        "$COAR" fit "$run" --estimator ridge
}
succeeds "a run" run "$T/r.h5" "$T/d.h5"
edit() { "$COAR" edit "$T/r.h5" --target "@$T/t.npy" --reference "@$T/f.npy" "$@"; }

# Planted by numpy: scores and order. By coar ablate: everything that was measured, to the bit where it is an output.
succeeds "lower a class" edit --lower --validation "@$T/v.npy" --test "@$T/s.npy" --target-test 'class:3&rest' --max-k 23 --select 4 --json
same "a k within 4 points was chosen" "$(json "0 < r['k'] <= 23 and r['sets']['validation']['before']['accuracy'] - r['sets']['validation']['after']['accuracy'] <= .04")" True
succeeds "tau" check tau "$T/r.h5" edit
succeeds "its masks" check masks "$T/r.h5" edit "$T/masks.npy"
succeeds "coar ablate of these masks" "$COAR" ablate --model "$MODEL" --data "$T/d.h5" --sampler "file:$T/masks.npy" -o "$T/a.h5"
succeeds "the sweep is what coar ablate gives" check sweep "$T/r.h5" edit "$T/a.h5"
for logits in 0,1,2,3,4,5,6,7 8,9; do
    "$COAR" ablate --model "$MODEL" --data "$T/d.h5" --sampler "file:$T/masks.npy" --output "logit:${logits//,/,logit:}" \
        -o "$T/l${logits%%,*}.h5" >"$T/.out" 2>&1
done
succeeds "predictions of the examples shown" check predicted "$T/r.h5" edit "$T/l0.h5" "$T/l8.h5"
absent "no stage of passes is left" "$T/r.h5.parts"/passes-*.{json,journal,alive}
succeeds "raise" edit --raise --name up
succeeds "its tau" check tau "$T/r.h5" up
succeeds "one target" "$COAR" edit "$T/r.h5" --target 45 --reference "@$T/f.npy" --lower --name one --max-k 5
grep -q "one example has no variance" "$T/.err" && pass "which is said" || fail "one target has no variance, which is said"
succeeds "tau of one target" check tau "$T/r.h5" one
succeeds "data without groups" run "$T/p.h5" "$T/plain.h5"
succeeds "its edit" "$COAR" edit "$T/p.h5" --target "@$T/t.npy" --reference "@$T/f.npy" --lower --max-k 23 --json
same "labels are its pairs" "$(json "sorted({p['group'] for p in r['pairs']})")" "[-1]"
same "the class is left out of what is drawn" "$(json "[p['label'] for p in r['pairs']] == [0, 1, 2, 4, 5, 6, 7, 8, 9] and r['sets']['target_test']['examples']")" 38
succeeds "coar ablate of its masks" check masks "$T/p.h5" edit "$T/masks.npy"
succeeds "on its data" "$COAR" ablate --model "$MODEL" --data "$T/plain.h5" --sampler "file:$T/masks.npy" -o "$T/b.h5"
succeeds "its sweep" check sweep "$T/p.h5" edit "$T/b.h5"

# The edited weights are the network under that mask.
succeeds "-o" edit --lower --max-k 8 --select 20 --name written -o "$T/e.safetensors" --json
succeeds "a run of the edited weights" "$COAR" ablate --model "$T/e.safetensors" --data "$T/d.h5" --masks 2 -o "$T/e.h5"
succeeds "gives what the edit says" check written "$T/r.h5" written "$T/e.h5"
fails 1 "$T/e.safetensors" "-o that is there" edit --lower --name x -o "$T/e.safetensors"
fails 2 "is the input" "-o over the weights" edit --lower --name x -o "$MODEL" --force
succeeds "a mean run" run "$T/mean.h5" "$T/d.h5" --ablation mean
fails 1 "which no weight file can hold" "-o of a mean run" "$COAR" edit "$T/mean.h5" --target "@$T/t.npy" --reference "@$T/f.npy" --lower -o "$T/m.safetensors"
succeeds "an edit of a mean run" "$COAR" edit "$T/mean.h5" --target "@$T/t.npy" --reference "@$T/f.npy" --lower --max-k 3
cp "$T/mean.h5" "$T/mean2.h5" && cp -r "$T/mean.h5.parts" "$T/mean2.h5.parts"
fails 1 "has means of its own" "two mean runs" "$COAR" edit "$T/mean.h5" --target "@$T/t.npy" --reference "@$T/f.npy" --lower --name x \
    --validation "$T/mean2.h5:0:9" # a copy
absent "nothing is written" "$T/m.safetensors"

# Nothing depends on threads and memory.
bytes() { "$PYTHON" -c "
import h5py, hashlib, sys
out = hashlib.sha256()
h5py.File(sys.argv[1])['edits/' + sys.argv[2]].visititems(lambda n, o: hasattr(o, 'shape') and out.update(o[()].tobytes()))
print(out.hexdigest()[:16])" "$@"; }
succeeds "one thread" edit --lower --max-k 23 --name t1 --threads 1
succeeds "two threads" edit --lower --max-k 23 --name t2 --threads 2
same "the same bits" "$(bytes "$T/r.h5" t1)" "$(bytes "$T/r.h5" t2)"

# --until, --select 0, comparisons.
succeeds "--until" edit --lower --until 50 --select 30 --name until --json
same "the first k at which half of the target is wrong" \
    "$(json "[p['k'] for p in r['sweep'] if p['target']['accuracy'] <= .5][0] == r['k'] == r['sweep'][-1]['k']")" True
succeeds "no baselines: --compare" edit --lower --compare --name c1 --json --max-k 10
grep -q "no leave-one-out of margin for method loo: .coar evaluate $T/r.h5 --baselines. makes them" "$T/.err" && pass "says what is missing" || fail "--compare says what is missing"
same "compares with what there is" "$(json "[c['method'] for c in r['comparison']]")" "['tau', 'greedy', 'weight-norm', 'random']"
succeeds "baselines" "$COAR" evaluate "$T/r.h5" --baselines --masks 16
succeeds "--compare" edit --lower --compare --name c2 --json --max-k 10 --target-test 'class:3&rest'
same "all methods" "$(json "[c['method'] for c in r['comparison']]")" "['tau', 'greedy', 'loo', 'gradient', 'weight-norm', 'random']"
same "the edit's own figures are in it" "$(json "(lambda s, c: abs(s['target']['before']['output'] - s['target']['after']['output'] - c['target_gain']['mean']) < 1e-6 and abs(s['test']['before']['accuracy'] - s['test']['after']['accuracy'] - c['test_loss']['mean']) < 1e-9 and c['target_gain']['low'] < c['target_gain']['mean'] < c['target_gain']['high'])(r['sets'], r['comparison'][0])")" True
succeeds "--method loo" edit --lower --method loo --name loo --max-k 5
succeeds "--method random --compare, without --fit" edit --lower --method random --compare --select 100 --name chance --json --max-k 5
same "is compared with the methods that take a fit" "$(json "[c['method'] for c in r['comparison']]")" "['random', 'tau', 'greedy', 'loo', 'gradient', 'weight-norm']"
succeeds "--select 0" edit --lower --select 0 --name zero --max-k 5

# Attributions from numpy: the fit's own give the same edit.
"$PYTHON" -c "
import h5py, numpy as np
with h5py.File('$T/r.h5') as f:
    W, R = f['attributions/ridge/weight'][()], f['examples/index'][()]
np.save('$T/W.npy', W); np.save('$T/R.npy', R)
W[7, 3] = np.nan; np.save('$T/Wnan.npy', W); np.save('$T/Wnarrow.npy', W[:, 1:]); np.save('$T/W64.npy', W.astype('f8'))
np.save('$T/Rtwice.npy', np.zeros(len(R), int)); np.save('$T/Rfar.npy', R + 1797); np.save('$T/Rshort.npy', R[1:])
np.save('$T/nan.npy', np.setdiff1d(R[:20], np.load('$T/t.npy')))"
succeeds "--attributions" edit --lower --max-k 23 --name given --attributions "$T/W.npy" --rows "$T/R.npy"
same "the same bits as the fit" "$(bytes "$T/r.h5" given)" "$(bytes "$T/r.h5" t1)"
succeeds "--attributions --compare" edit --lower --max-k 5 --compare --name given2 --json --attributions "$T/W.npy" --rows "$T/R.npy"
same "is not compared with scores of other rows" "$(json "[c['method'] for c in r['comparison']]")" "['tau', 'greedy', 'weight-norm', 'random']"
fails 2 "takes the run's own scores" "--method loo with --attributions" edit --lower --method loo --name given3 --attributions "$T/W.npy" --rows "$T/R.npy"

# Two runs: the same images with a bright corner.
"$PYTHON" -c "
import numpy as np
images = np.load('$DIGITS/digits-images.npy'); images[:, :2, :2] = images.max(); np.save('$T/trigger.npy', images)"
succeeds "pack images with a trigger" "$COAR" pack --from npy "$T/trigger.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/trigger.h5"
succeeds "their run" run "$T/two.h5" "$T/trigger.h5"
succeeds "target and reference of two runs" "$COAR" edit "$T/r.h5" --target "$T/two.h5:@$T/f.npy" --reference "@$T/f.npy" \
    --raise --max-k 10 --name pair --target-test "$T/two.h5:@$T/s.npy" --json
succeeds "tau of both" check tau "$T/r.h5" "$T/two.h5" pair
succeeds "merge" "$COAR" merge "$T/r.h5" -o "$T/merged.h5"
same "the same edit in it" "$(bytes "$T/merged.h5" pair)" "$(bytes "$T/r.h5" pair)"
"$COAR" info "$T/r.h5" >"$T/.out"
grep -q "edit pair: tau, raise margin by [0-9]* components" "$T/.out" && pass "coar info" || fail "coar info lists edits"

# A language model: mean outputs in place of accuracies.
"$PYTHON" -c "
import numpy as np
r = np.random.default_rng(0)
np.save('$T/tokens.npy', r.integers(0, 29, (60, 9)).astype('i4')); np.save('$T/lengths.npy', r.integers(2, 10, 60).astype('i4'))"
succeeds "pack texts" "$COAR" pack --from tokens "$T/tokens.npy" --lengths "$T/lengths.npy" -o "$T/texts.h5"
succeeds "their run" "$COAR" ablate --model tests/golden/models/gpt2.safetensors --data "$T/texts.h5" --masks 100 --output margin,loss -o "$T/g.h5"
succeeds "its fit" "$COAR" fit "$T/g.h5" --estimator ridge --output loss
succeeds "its edit" "$COAR" edit "$T/g.h5" --target 0:5 --reference 5:25 --raise --fit ridge-loss --max-k 20 --select .02 --json
same "the loss of validation texts grows by .02 at most, the target's as much as that allows" "$(json "(lambda v, t, p: v(p) <= .02 and all(t(q) <= t(p) for q in r['sweep'] if v(q) <= .02))(lambda q: q['validation']['output'] - r['sweep'][0]['validation']['output'], lambda q: q['target']['output'], [q for q in r['sweep'] if q['k'] == r['k']][0])")" True
same "no accuracies" "$(json "{r['sets'][s]['after']['accuracy'] for s in r['sets']} | set(r['pairs'])")" "{None}"
succeeds "tau" check tau "$T/g.h5" edit
fails 2 "a language model has no accuracy" "--until" "$COAR" edit "$T/g.h5" --target 0:5 --reference 5:25 --raise --fit ridge-loss --until 50 --name x
fails 2 "has no classes to be wrong about" "wrong" "$COAR" edit "$T/g.h5" --target wrong --reference 5:25 --raise --fit ridge-loss --name x

# What is there stays, unless it is to be replaced; a fit takes its edits with it.
fails 1 "edit 'edit' exists already: give another --name, or --force" "a name that is taken" edit --lower
before=$(bytes "$T/r.h5" edit)
fails 2 "--max-k 181: " "a failed --force" edit --lower --force --max-k 181
same "leaves the old edit" "$(bytes "$T/r.h5" edit)" "$before"
succeeds "--force" edit --lower --force --max-k 4
succeeds "fit --force" "$COAR" fit "$T/r.h5" --estimator ridge --force
absent "its edits are gone" "$T/r.h5.parts"/edit-{edit,up,one,t1,pair}.h5
same "others are not" "$(cd "$T/r.h5.parts" && echo edit-*)" "edit-chance.h5 edit-given.h5 edit-given2.h5 edit-loo.h5"

# Stops and kills go on.
LONG=(--lower --max-k 30 --select 100 --validation rest --test 1,2 --threads 1)
fails 3 "the same command goes on" "--time-limit" edit "${LONG[@]}" --name long --time-limit .02
succeeds "the same command" edit "${LONG[@]}" --name long
for moment in .1 .15 .2; do
    (timeout -s KILL $moment "$COAR" edit "$T/r.h5" --target "@$T/t.npy" --reference "@$T/f.npy" "${LONG[@]}" --name killed) \
        >"$T/.out" 2>&1
done
succeeds "after kills" edit "${LONG[@]}" --name killed --force
same "the same bits" "$(bytes "$T/r.h5" killed)" "$(bytes "$T/r.h5" long)"
absent "no stage of passes is left" "$T/r.h5.parts"/passes-*.{json,journal,alive}

# Refused, in one line.
fails 2 "--target: name the examples" "no target" "$COAR" edit "$T/r.h5" --reference 0 --raise
fails 2 "--reference: name examples" "no reference" "$COAR" edit "$T/r.h5" --target 0 --raise
fails 2 "give --raise or --lower" "no direction" edit
fails 2 "give --raise or --lower" "both directions" edit --raise --lower
fails 2 "overlap: row 45 is in both" "target and reference overlap" "$COAR" edit "$T/r.h5" --target "@$T/t.npy" --reference 0,45 --raise --name x
fails 2 "--validation 1:9 and --test 3 overlap: row 3 is in both" "test and validation overlap" edit --raise --name x --validation 1:9 --test 3
fails 2 "--target @$T/t.npy and --test" "target and test overlap" edit --raise --name x --test 45,0
fails 2 "--test 3,4 and --target-test 4:7 overlap: row 4" "test and target test overlap" \
    edit --raise --name x --test 3,4 --target-test 4:7
cp "$T/t.npy" "$T/wrong.npy"
fails 2 "is not in 0..59" "a file's name is no term" "$COAR" edit "$T/g.h5" --target "@$T/wrong.npy" --reference 5:25 --raise \
    --fit ridge-loss --name x
fails 2 "one example has no variance" "one reference" "$COAR" edit "$T/r.h5" --target "@$T/t.npy" --reference 0 --raise --name x
fails 2 "the file has no such name" "no such group" "$COAR" edit "$T/r.h5" --target group:none --reference "@$T/f.npy" --raise --name x
fails 2 "no example has it" "no such class" "$COAR" edit "$T/r.h5" --target class:11 --reference "@$T/f.npy" --raise --name x
fails 1 "row 1 has no attributions: it is not an example of $T/r.h5" "a target outside the run" "$COAR" edit "$T/r.h5" --target 1 --reference "@$T/f.npy" --raise --name x
fails 2 "is not in 0..1796" "a row outside the data" "$COAR" edit "$T/r.h5" --target 1797 --reference "@$T/f.npy" --raise --name x
fails 2 "the rest of what?" "rest of nothing" "$COAR" edit "$T/r.h5" --target rest --reference "@$T/f.npy" --raise --name x
fails 2 "has no such fit" "no such fit" edit --raise --name x --fit none
fails 2 "--method 'none': give tau" "no such method" edit --raise --name x --method none
fails 2 "--name 'a/b'" "a name with a slash" edit --raise --name a/b
fails 2 "--select '-1'" "a negative --select" edit --raise --name x --select -1
fails 2 "--until: give a percentage" "--until 101" edit --raise --name x --until 101
fails 1 "attributions of 179 components" "attributions of other components" edit --raise --name x --attributions "$T/Wnarrow.npy" --rows "$T/R.npy"
fails 1 "want attributions, f32" "attributions in f64" edit --raise --name x --attributions "$T/W64.npy" --rows "$T/R.npy"
fails 1 "row 0 is there twice" "rows twice" edit --raise --name x --attributions "$T/W.npy" --rows "$T/Rtwice.npy"
fails 1 "is not in $T/d.h5" "rows beyond the data" edit --raise --name x --attributions "$T/W.npy" --rows "$T/Rfar.npy"
fails 1 "359 rows, but" "rows too few" edit --raise --name x --attributions "$T/W.npy" --rows "$T/Rshort.npy"
fails 2 "go together" "--attributions without --rows" edit --raise --name x --attributions "$T/W.npy"
fails 1 "of 1 of the 18 reference examples are not finite, row 35 first" "attributions that are not finite" \
    "$COAR" edit "$T/r.h5" --target "@$T/t.npy" --reference "@$T/nan.npy" --raise --name x --attributions "$T/Wnan.npy" --rows "$T/R.npy"
succeeds "a run of other components" "$COAR" ablate --model "$MODEL" --data "$T/plain.h5" --components blocks --masks 64 -o "$T/blocks.h5"
fails 1 "components is 'blocks'" "another component set" "$COAR" edit "$T/r.h5" --target "$T/blocks.h5:0:9" --reference "@$T/f.npy" --raise --name x
fails 1 "there are none of margin" "a run without fits" "$COAR" edit "$T/blocks.h5" --target 0:9 --reference 9:30 --raise
fails 1 "none.h5" "no such second run" "$COAR" edit "$T/r.h5" --target "$T/none.h5:0:9" --reference "@$T/f.npy" --raise --name x
fails 1 "none.h5: no such file" "no such run" "$COAR" edit "$T/none.h5" --target 0 --reference 1,2 --raise
absent "nothing half-made is left" "$T/r.h5.parts"/edit-x.h5 "$T/r.h5.parts"/edit-*.tmp.*
finish
