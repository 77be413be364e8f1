# hostile.sh - wrong flags and broken files through the program: one line that names the thing, the right exit code, nothing
# half-written.
. tests/cli/lib.sh
R=$DIGITS/digits-resnet.safetensors V=$DIGITS/digits-vit.safetensors
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
ablate() { "$COAR" ablate --model "$R" --data "$T/d.h5" --examples 0:40 --masks 20 "$@"; }
succeeds "a good run" ablate -o "$T/good.h5"
succeeds "a good fit" "$COAR" fit "$T/good.h5"

# --- flags
fails 2 "is no command" "unknown command" "$COAR" frobnicate
fails 2 "--frob" "unknown option" ablate --frob -o "$T/x.h5"
fails 2 "--masks" "option without a value" "$COAR" ablate --masks
for alpha in 0 0.0001x -0.1 1 2 nan inf; do fails 2 "--alpha" "alpha $alpha" ablate --alpha $alpha -o "$T/x.h5"; done
fails 2 "above 0 and below 1" "its range is told" ablate --alpha 0 -o "$T/x.h5"
fails 2 "--masks '0': give a whole number from 1 up" "no masks" ablate --masks 0 -o "$T/x.h5"
fails 2 "--threads" "no threads" ablate --threads 0 -o "$T/x.h5"
fails 2 "--batch" "no images" "$COAR" bench --model resnet8 --batch 0
fails 2 "--alpha" "bench: no ablation without --dense" "$COAR" bench --model resnet8 --alpha 0
fails 2 "--crop" "a crop to nothing" "$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" --size 4 --crop 0 -o "$T/x.h5"
fails 2 "--masks" "evaluate: no masks" "$COAR" evaluate "$T/good.h5" --masks 0
fails 2 "-o" "no output named" ablate
fails 2 "--model" "no model named" "$COAR" ablate --data "$T/d.h5" -o "$T/x.h5"
fails 2 "--data" "no data named" "$COAR" ablate --model "$R" -o "$T/x.h5"
fails 2 "--memory" "a size that is none" ablate --memory 8X -o "$T/x.h5"
fails 1 "--memory" "a memory bound that nothing fits in" ablate --memory 4K -o "$T/x.h5"
fails 2 "gpu" "an unknown backend" ablate --backend gpu -o "$T/x.h5"
fails 2 "fp8" "an unknown precision" ablate --precision fp8 -o "$T/x.h5"
fails 2 "sampler" "an unknown sampler" ablate --sampler dice -o "$T/x.h5"
fails 1 "/none.npy" "masks from a file that is not there" ablate --sampler file:/none.npy -o "$T/x.h5"
fails 2 "blend" "an unknown ablation" ablate --ablation blend -o "$T/x.h5"
fails 2 "scale" "scale without a number" ablate --ablation scale:x -o "$T/x.h5"
fails 2 "score" "an unknown output" ablate --output score -o "$T/x.h5"
fails 2 "10" "a class that is not there" ablate --output logit:10 -o "$T/x.h5"
fails 2 "neurons" "components that this family does not have" ablate --components neurons -o "$T/x.h5"
fails 2 "tensors" "unknown components" ablate --components tensors -o "$T/x.h5"
fails 2 "--only" "--only that matches nothing" ablate --only 'nothing*' -o "$T/x.h5"
fails 2 "vgg" "an unknown architecture" ablate --arch vgg -o "$T/x.h5"
fails 2 "colour" "an unknown key of --arch" ablate --arch resnet8,colour=3 -o "$T/x.h5"
fails 2 "--shard" "a shard that is none" ablate --shard 2/2 -o "$T/x.h5"
for shard in -1/2 0/-1 +0/2 ' 0/2' 0/0 0/2x 0/ /2 0/4294967297; do fails 2 "--shard" "a shard '$shard'" ablate --shard "$shard" -o "$T/x.h5"; done
fails 2 "--time-limit" "a time that is none" ablate --time-limit soon -o "$T/x.h5"
fails 2 "--label" "a label source that is none" ablate --label guess -o "$T/x.h5"
fails 2 "--store" "a storage type that is none" ablate --store f8 -o "$T/x.h5"
fails 2 "COAR_ISA" "an instruction set that is none" env COAR_ISA=mmx "$COAR" ablate --model "$R" --data "$T/d.h5" -o "$T/x.h5"

# --- flags of `run`'s later stages: told before the first one begins
later() { "$COAR" run --model "$R" --data "$T/d.h5" --examples 0:40 --masks 20 "$@" -o "$T/x.h5"; }
fails 2 "lars" "an unknown estimator of run" later --estimator lars
fails 2 "lars" "an unknown estimator behind a long list" later --estimator "$(printf 'ols,%.0s' $(seq 100))lars"
fails 2 "1.5" "an evaluation alpha that is none" later --eval-alpha .1,1.5
fails 2 "--eval-masks" "evaluation masks without a correlation" later --eval-masks 1
fails 2 "--eval-seed" "an evaluation seed that is none" later --eval-seed x
printf 'my notes' >"$T/y.html"
fails 1 "y.html" "run: a page that is not coar's" "$COAR" run --model "$R" --data "$T/d.h5" --examples 0:40 --masks 20 -o "$T/y.h5"
absent "no run was begun for it" "$T/y.h5" "$T/y.h5.parts"
same "the page is as it was" "$(cat "$T/y.html")" "my notes"
succeeds "run: --force replaces it" "$COAR" run --model "$R" --data "$T/d.h5" --examples 0:40 --masks 20 --force -o "$T/y.h5"
succeeds "run: its own page is replaced without" "$COAR" run --model "$R" --data "$T/d.h5" --examples 0:40 --masks 20 -o "$T/y.h5"
absent "no run was begun for them" "$T/x.h5" "$T/x.h5.parts" "$T/x.html"
longer() { "$COAR" run --model "$R" --data "$T/d.h5" --examples 0:40 --masks 24 --eval-masks 8 "$@" -o "$T/y.h5"; }
succeeds "somebody's fit" "$COAR" fit "$T/y.h5" --estimator lasso --name mine
cp "$T/y.h5" "$T/y.before"
fails 1 "'mine' is of estimator lasso" "run: a name that another estimator's fit has" longer --estimator ridge --name mine
fails 1 "'mine' is of estimator lasso" "run: and whatever the default may become" longer --name mine
succeeds "no mask was made for them" cmp "$T/y.h5" "$T/y.before"
succeeds "run: --force starts over, without that fit" longer --estimator ridge --name mine --force
succeeds "run: a longer run replaces its own fit" longer --masks 28 --name mine

fails 2 "--name" "one name for two fits" "$COAR" run --model "$R" --data "$T/d.h5" --estimator ols,ridge --name a -o "$T/x.h5"
fails 1 "regular file" "a device as weights" timeout -s KILL 20 "$COAR" evaluate "$T/good.h5" --model /dev/zero
"$COAR" run --model "$R" --data "$T/d.h5" --examples 0:40 --masks 64 --eval-masks 1000000 --time-limit 1s -o "$T/limited.h5" >"$T/.out" 2>"$T/.err"
same "--time-limit of run holds for the evaluation too" $? 3

# --- examples
for spec in 5:5 0:99999 99999 1,1 x class:dog group:1 @/none.npy ''; do
    fails "[12]" "" "examples '$spec'" "$COAR" ablate --model "$R" --data "$T/d.h5" --masks 4 --examples "$spec" -o "$T/x.h5"
done

# --- weights
head -c 5000 "$R" >"$T/short.safetensors"
fails 1 "short.safetensors" "truncated weights" "$COAR" ablate --model "$T/short.safetensors" --data "$T/d.h5" -o "$T/x.h5"
printf '\377\377\377\377\377\377\377\177{}' >"$T/long.safetensors"
fails 1 "long.safetensors" "a header longer than the file" "$COAR" info "$T/long.safetensors"
printf 'hello' >"$T/text.safetensors"
fails 1 "text.safetensors" "no weight file at all" "$COAR" ablate --model "$T/text.safetensors" --data "$T/d.h5" -o "$T/x.h5"
fails 1 "none.safetensors" "weights that are not there" "$COAR" ablate --model "$T/none.safetensors" --data "$T/d.h5" -o "$T/x.h5"
fails 1 "$T" "a folder as weights" "$COAR" ablate --model "$T" --data "$T/d.h5" -o "$T/x.h5"

# --- data
head -c 3000 "$T/d.h5" >"$T/short.h5"
fails 1 "short.h5" "a truncated data file" "$COAR" ablate --model "$R" --data "$T/short.h5" -o "$T/x.h5"
fails 1 "digits-resnet" "weights as data" "$COAR" ablate --model "$R" --data "$R" -o "$T/x.h5"
fails 1 "good.h5" "a run as data" "$COAR" ablate --model "$R" --data "$T/good.h5" -o "$T/x.h5"
fails 2 "--from" "an unknown source" "$COAR" pack --from tar "$T/d.h5" -o "$T/p.h5"
fails 1 "none" "a source that is not there" "$COAR" pack --from npy "$T/none.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/p.h5"
succeeds "npy without labels is unlabelled" "$COAR" pack --from npy "$DIGITS/digits-images.npy" -o "$T/bare.h5"
fails 1 "--label predicted" "unlabelled data without --label" "$COAR" ablate --model "$R" --data "$T/bare.h5" --examples 0:40 --masks 4 -o "$T/x.h5"
succeeds "unlabelled data with --label predicted" "$COAR" ablate --model "$R" --data "$T/bare.h5" --examples 0:40 --masks 4 --label predicted -o "$T/bare-run.h5"
succeeds "means over what the network gets right" ablate --ablation mean --calibration '0:100&correct' -o "$T/right.h5"
printf '{"half' >"$T/plan.json"
fails 1 "plan.json" "a plan that is none" ablate --plan "$T/plan.json" -o "$T/x.h5"
"$COAR" ablate --model "$V" --data "$T/d.h5" --examples 0:4 --masks 4 -o "$T/vit.h5" >/dev/null 2>&1
fails 1 "layers" "the plan of another network" ablate --plan "$T/vit.h5" -o "$T/x.h5"
fails 1 "digits-test-rows.npy" "labels of another length" "$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-test-rows.npy" -o "$T/p.h5"
mkdir -p "$T/empty" "$T/bad/cat"
fails 1 "empty" "an empty folder" "$COAR" pack --from imagefolder "$T/empty" -o "$T/p.h5"
printf 'not an image' >"$T/bad/cat/a.jpg"
fails 1 "a.jpg" "a JPEG that is none" "$COAR" pack --from imagefolder "$T/bad" -o "$T/p.h5"
fails 1 "exists" "an existing data file" "$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5"
absent "no output of a failed command is left" "$T/x.h5" "$T/x.h5.parts" "$T/p.h5"
same "no temporary files are left" "$(find "$T" -name '*.tmp.*' | head -n 1)" ""

# --- an existing run, other settings
succeeds "the same settings again" ablate -o "$T/good.h5"
if grep -q 'nothing to do' "$T/.out"; then pass "nothing to do"; else fail "nothing to do"; note "$(cat "$T/.out")"; fi
for other in "--alpha .3" "--seed 9" "--ablation mean" "--ablation scale:.5" "--sampler fixed" "--components blocks" "--only *conv1" \
    "--output loss" "--label predicted" "--backend reference"; do
    flag=${other%% *}
    # shellcheck disable=SC2086
    fails 1 "$flag" "a run made with another $other" ablate $other -o "$T/good.h5"
done
fails 1 "--examples" "a run of other examples" "$COAR" ablate --model "$R" --data "$T/d.h5" --examples 1:41 --masks 20 -o "$T/good.h5"
fails 1 "--model" "a run of other weights" "$COAR" ablate --model "$V" --data "$T/d.h5" --examples 0:40 --masks 20 -o "$T/good.h5"
fails 1 "--masks" "fewer masks than there are" "$COAR" ablate --model "$R" --data "$T/d.h5" --examples 0:40 --masks 10 -o "$T/good.h5"
before=$(ls "$T/good.h5.parts")
for store in "--store f16" "--store-masks"; do
    # shellcheck disable=SC2086
    fails 1 "${store%% *}" "an extension with another $store" ablate --masks 24 $store -o "$T/good.h5"
done
same "it left nothing behind" "$(ls "$T/good.h5.parts")" "$before"
cp "$T/good.h5" "$T/longer.h5"; cp -r "$T/good.h5.parts" "$T/longer.h5.parts"
succeeds "nor does it stand in the way of the right extension" ablate --masks 24 -o "$T/good.h5"
rm -rf "$T/good.h5" "$T/good.h5.parts"; mv "$T/longer.h5" "$T/good.h5"; mv "$T/longer.h5.parts" "$T/good.h5.parts"
fails 1 "work units" "--force with more masks than the memory holds" ablate --masks 20000000000 --memory 100M --force -o "$T/good.h5"
fails 1 "are free" "--force with more masks than the disk holds" "$COAR" ablate --model "$R" --data "$T/d.h5" --masks 1000000000000 --memory 4000G --force -o "$T/good.h5"
same "the old run is still whole" "$(ls "$T/good.h5.parts")" "$before"
fails 1 "began with none" "an option the run was begun without" ablate --arch resnet8 -o "$T/good.h5"
succeeds "a run of some gain" ablate --ablation scale:.3 -o "$T/gain.h5"
succeeds "the same gain in other digits" ablate --ablation scale:0.30 -o "$T/gain.h5"
mean() { ablate --ablation mean --calibration "$1" -o "$T/mean.h5"; }
succeeds "means over a range" mean 0:4
succeeds "the same rows in other words" mean 0,1,2,3
fails 1 "--calibration" "means over other rows" mean 0:5
overflow() { ablate --ablation scale:1e5 --store f16 -o "$T/half.h5" "$@"; }
fails 1 "--store f32 --force" "outputs above f16's range" overflow
same "they are found at the first unit" "$(find "$T/half.h5.parts" -name '*.journal' -size +0 | wc -l)" 0
succeeds "and what the message says helps" overflow --store f32 --force
rm -rf "$T/half.h5" "$T/half.h5.parts"
printf 'precious' >"$T/precious.h5"
fails 1 "precious.h5" "a file that is no run is not overwritten" ablate -o "$T/precious.h5"
same "it is still there" "$(cat "$T/precious.h5")" precious

# --- --force spares inputs and foreign files
forced() { "$COAR" ablate --model "$T/w.safetensors" --data "$T/i.h5" --examples 0:40 --masks 20 --force "$@"; }
cp "$R" "$T/w.safetensors"; cp "$T/d.h5" "$T/i.h5"; ln "$T/i.h5" "$T/link.h5"
head -c 180 /dev/zero >"$T/rows"
fails 2 "i.h5" "the data set as -o" forced -o "$T/i.h5"
fails 2 "link.h5" "another name of it as -o" forced -o "$T/link.h5"
fails 2 "w.safetensors" "the weights as -o" forced -o "$T/w.safetensors"
fails 2 "rows" "the masks as -o" forced --sampler "file:$T/rows" -o "$T/rows"
fails 2 "good.h5" "the plan as -o" forced --plan "$T/good.h5" -o "$T/good.h5"
succeeds "all of them are as they were" cmp "$T/i.h5" "$T/d.h5"
succeeds "so are the weights" cmp "$T/w.safetensors" "$R"
mkdir "$T/f.h5.parts"; echo precious >"$T/f.h5.parts/thesis.txt"
fails 1 "thesis.txt" "a foreign folder of the parts' name" forced -o "$T/f.h5"
same "it is still there, too" "$(cat "$T/f.h5.parts/thesis.txt")" precious
rm -r "$T/f.h5.parts"

cp "$DIGITS/digits-labels.npy" "$T/l.npy"
fails 1 "good.h5.parts" "a run as pack's -o" "$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$T/l.npy" -o "$T/good.h5" --force
fails 1 "good.h5.parts" "a run as its report's -o" "$COAR" report "$T/good.h5" -o "$T/good.h5" --force
fails 1 "good.h5.parts" "a run as the -o of its masks" "$COAR" masks "$T/good.h5" -o "$T/good.h5" --force
ln -s good.h5 "$T/good2.h5"
fails 2 "good2.h5" "another name of it as the -o of its masks" "$COAR" masks "$T/good.h5" -o "$T/good2.h5" --force
fails 2 "good2.h5" "another name of it as its report's -o" "$COAR" report "$T/good.h5" -o "$T/good2.h5" --force
fails 2 "d.h5" "the data set as a report's -o" "$COAR" report "$T/good.h5" -o "$T/d.h5" --force
fails 2 "l.npy" "labels as pack's -o" "$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$T/l.npy" -o "$T/l.npy" --force
fails 2 "l.npy" "masks as the -o of their fit" "$COAR" fit --masks "$T/l.npy" --outputs "$DIGITS/digits-labels.npy" -o "$T/l.npy" --force
fails 2 "l.npy" "outputs as the -o of their fit" "$COAR" fit --masks "$DIGITS/digits-labels.npy" --outputs "$T/l.npy" -o "$T/l.npy" --force
succeeds "the labels are as they were" cmp "$T/l.npy" "$DIGITS/digits-labels.npy"
rm "$T/good2.h5" "$T/l.npy"

# --- fit and evaluate
fails 1 "ridge" "a fit that exists" "$COAR" fit "$T/good.h5"
fails 2 "magic" "an unknown estimator" "$COAR" fit "$T/good.h5" --estimator magic
fails "[12]" "entropy" "an output that is not there" "$COAR" fit "$T/good.h5" --output entropy
fails "[12]" "../up" "a fit name with a slash" "$COAR" fit "$T/good.h5" --name ../up
fails 2 "letters" "a fit name that is too long" "$COAR" fit "$T/good.h5" --name "$(printf 'x%.0s' $(seq 64))"
succeeds "a run with a colon in an output's name" ablate --output margin,logit:3 -o "$T/colon.h5"
succeeds "a fit of it" "$COAR" fit "$T/colon.h5" --output logit:3
succeeds "an evaluation of it" "$COAR" evaluate "$T/colon.h5" --fit ridge-logit:3 --masks 4
succeeds "all of it merged" "$COAR" merge "$T/colon.h5" -o "$T/colon1.h5"
succeeds "what was merged" "$COAR" info "$T/colon1.h5"
if grep -q "^fit ridge-logit:3: ridge of logit:3" "$T/.out"; then pass "its fit is there"; else fail "its fit is there"; note "$(cat "$T/.out")"; fi
fails 1 "d.h5" "fitting a data file" "$COAR" fit "$T/d.h5"
fails 1 "nosuch.h5" "fitting nothing" "$COAR" fit "$T/nosuch.h5"
fails 2 "--outputs" "masks without outputs" "$COAR" fit --masks "$DIGITS/digits-labels.npy" -o "$T/a.h5"
fails 1 "digits-labels.npy" "masks of a wrong shape" "$COAR" fit --masks "$DIGITS/digits-labels.npy" --outputs "$DIGITS/digits-labels.npy" -o "$T/a.h5"
fails "[12]" "nofit" "evaluating a fit that is not there" "$COAR" evaluate "$T/good.h5" --fit nofit
fails 2 "1.5" "evaluating at an alpha that is none" "$COAR" evaluate "$T/good.h5" --alpha 1.5
cp "$T/good.h5" "$T/once.h5"; cp -r "$T/good.h5.parts" "$T/once.h5.parts"
succeeds "a few fresh masks" "$COAR" evaluate "$T/good.h5" --masks 5
succeeds "some more go on from there" "$COAR" evaluate "$T/good.h5" --masks 8
succeeds "as many at once" "$COAR" evaluate "$T/once.h5" --masks 8
if cmp -s "$T"/good.h5.parts/truth-*.h5 "$T"/once.h5.parts/truth-*.h5; then pass "both have the same truth"; else fail "both have the same truth"; fi
fails 1 "made with cpu" "evaluating with another backend" "$COAR" evaluate "$T/good.h5" --masks 4 --backend reference
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" --mean .5 --std .5 -o "$T/other.h5" >/dev/null
fails 1 "data_sha256" "evaluating on other data" "$COAR" evaluate "$T/good.h5" --data "$T/other.h5"
fails 1 "model_sha256" "evaluating other weights" "$COAR" evaluate "$T/good.h5" --model "$V"

# --- damage
copy() { rm -rf "$T/c.h5" "$T/c.h5.parts"; cp "$T/good.h5" "$T/c.h5"; cp -r "$T/good.h5.parts" "$T/c.h5.parts"; }
copy; rm "$T"/c.h5.parts/outputs-*.h5
fails 1 "outputs-" "a missing part behind the virtual data set" "$COAR" fit "$T/c.h5" --estimator ols
if [ -n "${PYTHON:-}" ]; then
    copy
    "$PYTHON" - "$T"/c.h5.parts/outputs-*.h5 <<'P'
import sys
import h5py
with h5py.File(sys.argv[1]) as part:
    chunk = part["ablations/margin"].id.get_chunk_info(0)
with open(sys.argv[1], "r+b") as part:
    part.seek(chunk.byte_offset + chunk.size // 2)
    byte = part.read(1)[0]
    part.seek(-1, 1)
    part.write(bytes([byte ^ 1]))
P
    fails 1 "outputs-" "a flipped bit of a part" "$COAR" fit "$T/c.h5" --estimator ols
else
    skip "a flipped bit of a part" "no Python with h5py"
fi
copy; truncate -s 1000 "$(ls "$T"/c.h5.parts/outputs-*.h5)"
fails 1 "outputs-" "a truncated part" "$COAR" fit "$T/c.h5" --estimator ols
copy; printf '{"half' >"$T/c.h5.parts/manifest.json"
fails 1 "manifest.json" "a damaged manifest" "$COAR" fit "$T/c.h5" --estimator ols
copy; rm "$T/c.h5.parts/manifest.json"
fails 1 "manifest.json" "a missing manifest" "$COAR" fit "$T/c.h5" --estimator ols

# --- places that cannot be written
if [ "$(id -u)" != 0 ]; then
    mkdir "$T/readonly"; chmod 555 "$T/readonly"
    fails 1 "readonly" "a read-only folder" ablate -o "$T/readonly/x.h5"
else
    fails 1 "/proc" "a folder that cannot be written" ablate -o /proc/x.h5
fi
fails 1 "nofolder" "a folder that is not there" ablate -o "$T/nofolder/x.h5"
if mkdir "$T/full" && mount -t tmpfs -o size=200k tmpfs "$T/full" 2>/dev/null; then
    "$COAR" ablate --model "$V" --data "$T/d.h5" --masks 2000 -o "$T/full/x.h5" >"$T/.out" 2>"$T/.err"; code=$?
    same "a full disk: exit code" $code 1
    if grep -qi 'no space' "$T/.err"; then pass "a full disk is named"; else fail "a full disk is named"; note "$(tail -n 3 "$T/.err")"; fi
    if [ ! -e "$T/full/x.h5" ] || "$COAR" info "$T/full/x.h5" >/dev/null 2>&1; then pass "nothing half-written on the full disk"; else fail "nothing half-written on the full disk"; fi
    umount "$T/full"
else
    # no mount in this sandbox: /dev/full refuses every byte
    "$COAR" info "$R" >/dev/full 2>"$T/.err"
    same "a full disk behind standard output: exit code" $? 1
    skip "a full disk under a run" "cannot mount a small file system here"
fi

# --- two processes on one run
"$COAR" ablate --model "$V" --data "$T/d.h5" --masks 4000 -o "$T/busy.h5" >/dev/null 2>&1 &
pid=$!
for _ in $(seq 100); do ls "$T"/busy.h5.parts/*.journal >/dev/null 2>&1 && break; sleep .05; done
fails 1 "$pid" "a second live process names the first" "$COAR" ablate --model "$V" --data "$T/d.h5" --masks 4000 -o "$T/busy.h5"
kill -9 $pid; wait $pid 2>/dev/null
"$COAR" ablate --model "$V" --data "$T/d.h5" --masks 4000 --time-limit 1 -o "$T/busy.h5" >"$T/.out" 2>"$T/.err"
same "resuming right after a kill works" $? 3
finish
