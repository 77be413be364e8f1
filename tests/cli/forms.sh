#!/usr/bin/env bash
# forms.sh - direct and Winograd forms through the command line: --exact, --precision fp32, plans from files, runs that go on, and
# bench/accuracy.py.
. tests/cli/lib.sh
if [ -z "${PYTHON:-}" ]; then
    skip "direct and Winograd forms" "no Python with numpy and h5py"
    finish
fi
export PYTHONDONTWRITEBYTECODE=1
"$COAR" pack --from npy "$DIGITS/digits-images.npy" --labels "$DIGITS/digits-labels.npy" -o "$T/d.h5" >/dev/null
job=(--model "$DIGITS/digits-resnet.safetensors" --data "$T/d.h5" --examples 0:40)
ablate() { "$COAR" ablate "${job[@]}" "$@"; }
plan() { "$PYTHON" -c "import h5py, sys; print(h5py.File(sys.argv[1]).attrs['plan'])" "$1"; }
transformed() { plan "$1" | grep -o '"form":"winograd[^"]*"' | sort | uniq -c | tr -s ' \n' ' '; }

# fp32 is named where auto might take bf16.
succeeds "ablate" ablate --masks 20 --precision fp32 -o "$T/w.h5"
same "its forms" "$(transformed "$T/w.h5")" ' 1 "form":"winograd compacted" 3 "form":"winograd" '
succeeds "ablate --threads 3" ablate --masks 20 --precision fp32 --threads 3 -o "$T/same.h5"
succeeds "ablate --threads 3: the same bytes" "$PYTHON" tests/python/compare_runs.py "$T/w.h5" "$T/same.h5"
if plan "$T/w.h5" | grep -q cpu/avx512bf16; then
    skip "auto is fp32" "this machine has bf16"
else
    succeeds "ablate in auto" ablate --masks 20 -o "$T/auto.h5"
    succeeds "auto is fp32" "$PYTHON" tests/python/compare_runs.py "$T/w.h5" "$T/auto.h5"
fi
succeeds "ablate --exact" ablate --masks 20 --precision fp32 --exact -o "$T/e.h5"
same "it transforms nothing" "$(transformed "$T/e.h5")" ""
succeeds "gradients --exact" "$COAR" gradients "${job[@]}" --passes 2 --precision fp32 --exact -o "$T/g.h5"
same "it transforms nothing, either" "$(plan "$T/g.h5")" "$(plan "$T/e.h5")"
succeeds "run --exact" "$COAR" run "${job[@]}" --masks 20 --eval-masks 4 --precision fp32 --exact -o "$T/r.h5"
same "nor does run" "$(plan "$T/r.h5")" "$(plan "$T/e.h5")"

# A run goes on in the forms it was begun in; one begun before there were others, in direct ones.
succeeds "a direct run is extended" ablate --masks 40 -o "$T/e.h5"
succeeds "the same in one go" ablate --masks 40 --precision fp32 --exact -o "$T/e40.h5"
succeeds "it went on in direct forms" "$PYTHON" tests/python/compare_runs.py "$T/e.h5" "$T/e40.h5"
fails 1 "--exact: $T/w.h5 has layer 'layer1.0.conv1' in form 'winograd compacted'" "a transformed run refuses --exact" \
    ablate --masks 40 --exact -o "$T/w.h5"
fails 1 "--exact: $T/w.h5" "its gradients, too" "$COAR" gradients "${job[@]}" --passes 2 --exact -o "$T/w.h5"
if plan "$T/w.h5" | grep -q cpu/portable; then
    skip "a run of another instruction set" "this machine has one"
else
    fails 1 "COAR_ISA" "a run of another instruction set" env COAR_ISA=portable "$COAR" ablate "${job[@]}" --masks 40 -o "$T/w.h5"
fi

# Plans from files.
plan "$T/w.h5" >"$T/w.json"
succeeds "a plan from a file" ablate --masks 20 --plan "$T/w.json" -o "$T/p.h5"
succeeds "a plan from a file: the same bytes" "$PYTHON" tests/python/compare_runs.py "$T/w.h5" "$T/p.h5"
same "a plan from a file: the same text" "$(plan "$T/p.h5")" "$(cat "$T/w.json")"
fails 1 "--exact: $T/w.json" "a transformed plan refuses --exact" ablate --masks 20 --plan "$T/w.json" --exact -o "$T/x.h5"
fails 1 "--exact: $T/w.json" "bench refuses it, too" "$COAR" bench "${job[@]:0:2}" --plan "$T/w.json" --exact --time 1
fails 1 "--precision bf16" "bench: a plan in another precision" "$COAR" bench "${job[@]:0:2}" --plan "$T/w.json" --precision bf16
refuses() { # text, name, what to replace, by what
    sed "s/$3/$4/" "$T/w.json" >"$T/x.json"
    fails 1 "$1" "$2" ablate --masks 20 --plan "$T/x.json" -o "$T/x.h5"
}
refuses "cpu/neon" "a plan of an instruction set that this build lacks" 'cpu\/[a-z0-9]*' 'cpu\/neon'
refuses "'winograd 6'" "a plan of a form that this build lacks" '"winograd"' '"winograd 6"'
refuses "layer 'fc'" "a transformed linear layer" '"fc","form":"direct"' '"fc","form":"winograd"'
absent "nothing was begun for them" "$T/x.h5" "$T/x.h5.parts"

# The table of accuracies.
measure() { "$PYTHON" bench/accuracy.py "$(dirname "$COAR")" "$T/work" --quick --threads 1 "$@"; }
succeeds "bench/accuracy.py" measure
same "Winograd's largest difference is that of the two runs" "$(grep '| fp32 |' "$T/.out" | cut -d '|' -f 9 | tr -d ' ')" \
    "$("$PYTHON" -c "
import h5py
a, b = (h5py.File(f'$T/work/digits-resnet-24-128-40-{f}.h5')['ablations/margin'][()].astype(float) for f in ('fp32', 'fp32-direct'))
print(f'{abs(a - b).max():.1g}', end='')")"
printf 'before\n<!-- bench/accuracy.py: begin -->\nold\n<!-- bench/accuracy.py: end -->\nafter\n' >"$T/page.md"
cp "$T/.out" "$T/table.md"
succeeds "into a page" measure --write "$T/page.md"
same "what is around the markers stays" "$(sed -n '1p;$p' "$T/page.md" | tr '\n' ' ')" "before after "
same "what is between them is the table" "$(grep -v '^<!--\|^before\|^after' "$T/page.md" | grep .)" "$(grep . "$T/table.md")"
finish
