#!/usr/bin/env bash
# gpt2.sh - a language model through the command line: text into tokens, a run of heads with its report, the baselines that texts
# have, and what is refused in one line.
. tests/cli/lib.sh
model=$DIGITS/stories-gpt2.safetensors
words=(--vocab "$DIGITS/stories-vocab.json" --merges "$DIGITS/stories-merges.txt")
pack() { "$COAR" pack --from tokens "$DIGITS/stories.txt" "${words[@]}" "$@"; }
job=(--model "$model" --data "$T/s.h5")

succeeds "pack" pack -o "$T/s.h5"
same "what was packed" "$(sed 's/,[^,]*$//' "$T/.out")" "$T/s.h5: 96 texts of up to 86 tokens"
same "info of the data" "$("$COAR" info "$T/s.h5" | grep -c -e 'texts       48 to 86 tokens' -e 'vocabulary  512 tokens')" 2
same "info of the model" "$("$COAR" info "$model" | grep -c -e 'texts of up to 96 tokens' -e '3584 neurons in 16 groups')" 2
succeeds "run" "$COAR" run "${job[@]}" --examples 0:5 --components blocks --masks 24 --passes 2 --eval-masks 8 \
    --output margin,loss -o "$T/r.h5"
same "its report" "$(grep -c '73 tokens' "$T/r.html")" 1
succeeds "evaluate --baselines" "$COAR" evaluate "$T/r.h5" --baselines --masks 4
same "texts have two" "$(awk '{print $1}' "$T/.out" | grep -x -e gp -e loo -e nc -e ii | sort -u | tr '\n' ' ')" "gp loo "
same "and are told so" "$(grep -c "no conductance and no influence" "$T/.err")" 1
succeeds "again, with nothing to do" "$COAR" evaluate "$T/r.h5" --baselines --masks 4
if [ -n "${PYTHON:-}" ]; then
    succeeds "gradients of neurons" "$COAR" gradients "${job[@]}" --examples 0:4 --alpha .2 --passes 12 --only 'blocks.3.mlp.*' \
        -o "$T/g.h5"
    "$COAR" fit "$T/g.h5" --estimator grad >/dev/null 2>&1
    "$COAR" evaluate "$T/g.h5" --masks 60 >/dev/null 2>&1
    succeeds "they predict fresh masks, at the wrong neurons they do not" "$PYTHON" tests/python/shuffled.py "$T/g.h5" grad .4
    note "$(cat "$T/.out")"
else
    skip "attributions beside shuffled ones" "no Python with numpy and h5py"
fi
succeeds "mean ablation, of texts of one length" pack --length 40 -o "$T/m.h5"
succeeds "mean ablation" "$COAR" ablate --model "$model" --data "$T/m.h5" --examples 0:3 --components heads --masks 4 \
    --ablation mean -o "$T/mean.h5"

ablate() { "$COAR" ablate "${job[@]}" --components heads --masks 4 -o "$T/no.h5" "$@"; }
fails 1 "--ablation mean needs texts of one length" "means over padding" ablate --ablation mean
fails 2 "a language model's predictions are no labels" "--label predicted" ablate --label predicted
fails 2 "a language model's predictions are no labels" "examples that are wrong" ablate --examples wrong
fails 2 "texts have no classes" "examples of a class" ablate --examples class:3
fails 2 "a language model has no classes" "the logit of a class" ablate --output logit:3
fails 2 "a gpt2 has no filters" "components of another family" ablate --components filters
absent "nothing was written" "$T/no.h5" "$T/no.h5.parts"
fails 1 "holds texts, but" "texts for a network that sees images" "$COAR" ablate \
    --model "$DIGITS/digits-vit.safetensors" --data "$T/s.h5" -o "$T/no.h5"
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
fails 1 "holds images, but" "images for a language model" "$COAR" ablate --model "$model" --data "$T/d.h5" -o "$T/no.h5"
sed 's/"<|endoftext|>": 511/"more": 511, "<|endoftext|>": 512/' "$DIGITS/stories-vocab.json" >"$T/vocab.json"
pack --vocab "$T/vocab.json" -o "$T/v.h5" >/dev/null
fails 1 "are of a vocabulary of 513, but" "another vocabulary" "$COAR" ablate --model "$model" --data "$T/v.h5" -o "$T/no.h5"
if [ -n "${PYTHON:-}" ]; then
    "$PYTHON" -c 'import sys, numpy; numpy.save(sys.argv[1], numpy.arange(505, 521).reshape(2, 8))' "$T/beyond.npy"
    "$COAR" pack --from tokens "$T/beyond.npy" --length 7 -o "$T/b.h5" >/dev/null
    fails 1 "b.h5: /tokens: row 1 has token 513 at 0, but" "tokens of no known vocabulary" "$COAR" ablate --model "$model" \
        --data "$T/b.h5" --components heads --masks 4 -o "$T/no.h5"
else
    skip "tokens of no known vocabulary" "no Python with numpy and h5py"
fi
{ tr '\n' ' ' <"$DIGITS/stories.txt" | sed 's/<|endoftext|>//g'; } >"$T/long.txt"
"$COAR" pack --from tokens "$T/long.txt" "${words[@]}" -o "$T/l.h5" >/dev/null
fails 1 "takes texts of up to 96 tokens, not" "texts beyond the context" "$COAR" ablate --model "$model" --data "$T/l.h5" \
    -o "$T/no.h5"
fails 2 "--arch: heads=7: does not divide the width 128" "heads that do not fit" ablate --arch gpt2,heads=7
finish
