# classes.sh - --classes: a CLIP from masks to evaluation and edit, which find its class embeddings by the run; other embeddings are
# another run; what is wrong is said in one line.
. tests/cli/lib.sh
M=$PWD/tests/golden/models CLASSES=$M/clip-classes.npy
mkdir "$T/a"
cp "$M/clip_rn.safetensors" "$CLASSES" "$T/a"
succeeds "images of the goldens" "$COAR" pack --from npy "$M/images-32x32.npy" -o "$T/a/d.h5"
ablate() { "$COAR" ablate --model "$T/a/clip_rn.safetensors" --data "$T/a/d.h5" --label predicted --masks 40 "$@"; }
patched() { # patched FILE BYTES: the embeddings with other bytes at the end
    cp "$CLASSES" "$1"
    printf "$2" | dd of="$1" bs=1 seek=$(($(stat -c %s "$1") - 4)) conv=notrunc 2>/dev/null
}
patched "$T/other.npy" '\0\0\200\077'
patched "$T/nan.npy" '\0\0\300\177'

succeeds "masks" ablate --classes "$T/a/clip-classes.npy" -o "$T/a/run.h5"
succeeds "the same again" ablate --classes "$T/a/clip-classes.npy" -o "$T/a/run.h5"
succeeds "they may lie elsewhere" ablate --classes "$CLASSES" -o "$T/a/run.h5"
fails 1 "--classes (classes_sha256)" "other embeddings are another run" ablate --classes "$T/other.npy" -o "$T/a/run.h5"
succeeds "gradients" "$COAR" gradients --model "$T/a/clip_rn.safetensors" --data "$T/a/d.h5" --label predicted --passes 16 \
    --classes "$CLASSES" -o "$T/a/run.h5"
succeeds "a fit" "$COAR" fit "$T/a/run.h5"
mv "$T/a" "$T/b"
succeeds "evaluation finds them beside the run" "$COAR" evaluate "$T/b/run.h5" --masks 20
succeeds "and an edit" "$COAR" edit "$T/b/run.h5" --target 0 --reference 1,2 --validation 3 --test 4 --raise --max-k 5
fails 1 "classes_sha256 of" "evaluation: others are refused" "$COAR" evaluate "$T/b/run.h5" --masks 21 --classes "$T/other.npy"
mv "$T/b/clip-classes.npy" "$T/moved.npy"
fails 1 "name it with --classes" "evaluation: embeddings that are gone" "$COAR" evaluate "$T/b/run.h5" --masks 21
succeeds "evaluation takes their new place" "$COAR" evaluate "$T/b/run.h5" --masks 21 --classes "$T/moved.npy"
succeeds "info" "$COAR" info "$T/b/clip_rn.safetensors" --classes "$CLASSES"
if grep -q 'clip_rn$' "$T/.out" && grep -q 'classes *7$' "$T/.out"; then pass "it tells the classes"; else fail "it tells the classes"; fi
succeeds "bench" "$COAR" bench --model "$T/b/clip_rn.safetensors" --classes "$CLASSES" --batch 32 --time 0.1s
rm -rf "$T/b/run.h5" "$T/b/run.h5.parts"

ablate() { "$COAR" ablate --model "$T/b/clip_rn.safetensors" --data "$T/b/d.h5" --label predicted --masks 4 -o "$T/x.h5" "$@"; }
fails 2 "--classes: $T/b/clip_rn.safetensors is a CLIP" "a CLIP without" ablate
fails 2 "--classes" "info without" "$COAR" info "$T/b/clip_rn.safetensors"
fails 2 "which takes none" "embeddings for another family" "$COAR" ablate --model "$M/cifar_shortcut.safetensors" --data "$T/b/d.h5" \
    --masks 4 --classes "$CLASSES" -o "$T/x.h5"
fails 1 "class 6: number 10 is nan" "numbers that are none" ablate --classes "$T/nan.npy"
fails 1 "must be float32 or float16" "another type" ablate --classes "$M/images-32x32.npy"
head -c 300 "$CLASSES" >"$T/short.npy"
fails 1 "short.npy" "a truncated file" ablate --classes "$T/short.npy"
fails 1 "none.npy" "none there" ablate --classes "$T/none.npy"
fails 2 "logit_scale=x" "a scale that is none" ablate --classes "$CLASSES" --arch clip,logit_scale=x
fails 2 "0 to 6" "a class beyond the embeddings" ablate --classes "$CLASSES" --output logit:7
fails "[12]" "moved.npy" "--force never replaces them" ablate --classes "$T/moved.npy" -o "$T/moved.npy" --force
succeeds "they are as they were" cmp "$T/moved.npy" "$CLASSES"
absent "no output of a failed command is left" "$T/x.h5" "$T/x.h5.parts"
if [ -n "${PYTHON:-}" ]; then
    "$PYTHON" -c "import numpy, sys; numpy.save(sys.argv[1], numpy.array([0, 1, 2, 7, 3], numpy.int32))" "$T/labels.npy"
    "$COAR" pack --from npy "$M/images-32x32.npy" --labels "$T/labels.npy" -o "$T/labelled.h5" >/dev/null
    fails 1 "row 3 has label 7 but" "a label beyond the embeddings" "$COAR" ablate --model "$T/b/clip_rn.safetensors" \
        --data "$T/labelled.h5" --masks 4 --classes "$CLASSES" -o "$T/x.h5"
fi
finish
