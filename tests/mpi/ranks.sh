# ranks.sh - one job on 1, 2, 3 and 4 ranks (more than there are cores): the same bytes as from one process.
. tests/cli/lib.sh
. tests/mpi/lib.sh
if [ -z "${PYTHON:-}" ]; then
    skip "several ranks" "no Python with h5py"
    finish
fi
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
given=(--model "$DIGITS/digits-resnet.safetensors" --data "$T/d.h5" --alpha .1 --seed 7 --threads 1)
compare() { "$PYTHON" tests/python/compare_runs.py "$@"; }

# All stages. One thread each, so that fits have the same bytes, too.
whole=(run "${given[@]}" --examples 0:96 --masks 700 --passes 24 --estimator ols,grad+eb --eval-masks 130 --eval-alpha .1,.05)
succeeds "one process" "$COAR" "${whole[@]}" -o "$T/one.h5"
grep -v '^one\|report' "$T/.out" | sed 's/, [0-9.]* s$//; s/; .* images\/s$//; s/.*\.h5: //' >"$T/told"
for n in 1 2 3 4; do
    succeeds "$n ranks" ranks "$n" "${whole[@]}" -o "$T/$n.h5"
    grep -v '^one\|report' "$T/.out" | sed 's/, [0-9.]* s$//; s/; .* images\/s$//; s/.*\.h5: //' >"$T/told.$n"
    succeeds "$n ranks: one process's bytes" compare "$T/one.h5" "$T/$n.h5" exact
    if cmp -s "$T/told" "$T/told.$n"; then pass "$n ranks: rank 0 alone tells"; else fail "$n ranks: rank 0 alone tells"; note "$(diff "$T/told" "$T/told.$n")"; fi
    same "$n ranks: journals and signs of life that are left" "$(ls "$T/$n.h5.parts" | grep -cE 'journal|alive')" 0
done

# What a budget decides is decided once.
succeeds "a budget, one process" "$COAR" run "${given[@]}" --examples 0:40 --budget 300p --eval-masks 40 -o "$T/budget.h5"
succeeds "a budget, 2 ranks" ranks 2 run "${given[@]}" --examples 0:40 --budget 300p --eval-masks 40 -o "$T/budget2.h5"
succeeds "a budget: the same bytes" compare "$T/budget.h5" "$T/budget2.h5" exact
succeeds "baselines, one process" "$COAR" evaluate "$T/budget.h5" --baselines --masks 40 --threads 1
succeeds "baselines, 3 ranks" ranks 3 evaluate "$T/budget2.h5" --baselines --masks 40 --threads 1
succeeds "baselines: the same bytes" compare "$T/budget.h5" "$T/budget2.h5" exact

# Masks and means that other ranks cannot make themselves.
"$PYTHON" -c 'import numpy, sys; numpy.save(sys.argv[1], numpy.random.default_rng(1).random((300, 180)) > .1)' "$T/masks.npy"
odd=(ablate "${given[@]}" --examples 3:70 --ablation mean --sampler "file:$T/masks.npy" --output margin,loss)
succeeds "given masks and means, one process" "$COAR" "${odd[@]}" -o "$T/odd.h5"
succeeds "given masks and means, 3 ranks" ranks 3 "${odd[@]}" -o "$T/odd3.h5"
succeeds "given masks and means: the same bytes" compare "$T/odd.h5" "$T/odd3.h5"

# An extension, and a shard on two ranks beside one on one process.
part=(ablate "${given[@]}" --examples 0:64)
"$COAR" "${part[@]}" --masks 900 -o "$T/part.h5" >/dev/null 2>&1
ranks 2 "${part[@]}" --masks 400 -o "$T/grown.h5" >/dev/null 2>&1
succeeds "2 ranks, then 3 with more masks" ranks 3 "${part[@]}" --masks 900 -o "$T/grown.h5"
succeeds "an extension: the same bytes" compare "$T/part.h5" "$T/grown.h5"
succeeds "a shard on 2 ranks" ranks 2 "${part[@]}" --masks 900 --shard 1/3 -o "$T/shards.h5"
"$COAR" "${part[@]}" --masks 900 --shard 0/3 -o "$T/shards.h5" >/dev/null 2>&1
succeeds "the last shard on 3 ranks" ranks 3 "${part[@]}" --masks 900 --shard 2/3 -o "$T/shards.h5"
succeeds "shards of ranks: the same bytes" compare "$T/part.h5" "$T/shards.h5"

# Enough masks for each rank to count its own: 4,200 are 66 words, of which 4 ranks get 17 each.
"$COAR" ablate "${given[@]}" --examples 0:24 --masks 4200 -o "$T/fit.h5" >/dev/null 2>&1
cp -r "$T/fit.h5" "$T/fit4.h5" && cp -r "$T/fit.h5.parts" "$T/fit4.h5.parts"
for estimator in ols ridge eb; do
    succeeds "fit $estimator, one process" "$COAR" fit "$T/fit.h5" --estimator $estimator --threads 1
    succeeds "fit $estimator, 4 ranks" ranks 4 fit "$T/fit4.h5" --estimator $estimator --threads 1
done
succeeds "fits: the same bytes" compare "$T/fit.h5" "$T/fit4.h5" exact

# Fewer units than ranks.
timeout 60 "${mpirun[@]}" -n 4 "$COAR" ablate "${given[@]}" --examples 0:64 --masks 50 -o "$T/few.h5" >/dev/null 2>"$T/few.err"
same "more ranks than work units: exit code" $? 0
if grep -q '1 work units are left for 4 processes: 3 of these have nothing to do' "$T/few.err"; then pass "idle ranks are told of"; else fail "idle ranks are told of"; note "$(cat "$T/few.err")"; fi

# A process that nothing but a variable makes one of several, and one that takes no notice.
COAR_MPI=0 succeeds "COAR_MPI=0" env COAR_MPI=0 PMI_RANK=0 PMI_SIZE=2 "$COAR" "${part[@]}" --masks 900 -o "$T/part.h5"
finish
