#!/usr/bin/env bash
# bench.sh - what `coar bench` prints; no time is asserted.
. tests/cli/lib.sh

bench() { "$COAR" bench --model resnet20 --batch 8 --time 0.1 --threads 2 "$@"; }
number() { "$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1])).get(sys.argv[2], ""))' "$T/.out" "$1"; }
positive() { # NAME KEY...
    local name=$1 key
    shift
    for key in "$@"; do
        awk -v x="$(number "$key")" 'BEGIN { exit !(x + 0 > 0) }' && continue
        fail "$name"
        note "$key is '$(number "$key")': $(head -c 600 "$T/.out")"
        return
    done
    pass "$name"
}

# Layers are parts of the passes that were measured: seconds and flops add up to those of the whole.
sums() {
    "$PYTHON" - "$T/.out" <<'END'
import json, sys
r = json.load(open(sys.argv[1]))
layers = r["layers"]
images = {l["images"] for l in layers}
parts = sum(l["time_fraction"] for l in layers)
dense = sum(l["flops"] for l in layers) / layers[0]["images"] / r["flops_per_image"]
executed = sum(l["executed_flops"] for l in layers) / sum(l["flops"] for l in layers) / r["executed_fraction"]
reverse = any(l["shape"].endswith("transposed") for l in layers)
print(f"{len(images)} count, all seconds {parts:.4f}, dense flops {dense:.4f}, executed {abs(executed - 1) < 0.05}, "
      f"nothing below 0 {all(l['seconds'] >= 0 for l in layers)}, reverse {reverse}, rest {layers[-1]['name'] == ''}, "
      f"bytes {all(l['bytes'] > 0 for l in layers[:-1])}")
END
}

succeeds "bench: masked passes" bench --backend cpu --batch 32 --layers --json
positive "bench: rates" images_per_second images_per_second_min images_per_second_max executed_fraction peak_fraction \
    memory_bytes masked_passes_per_second
positive "bench: the machine" peak_flops peak_flops_one bandwidth bandwidth_one
same "bench: no reverse passes unless asked" "$(number reverse_cost)" ""
same "bench: layers add up" "$(sums)" \
    "1 count, all seconds 1.0000, dense flops 1.0000, executed True, nothing below 0 True, reverse False, rest True, bytes True"
succeeds "bench: reverse passes beside forward passes" bench --backend cpu --gradients --layers --json
positive "bench: rates of both" images_per_second reverse_per_second reverse_per_second_min reverse_per_second_max reverse_cost
same "bench: nothing is ablated in the forward passes" "$(number alpha)" 0
same "bench: layers of reverse passes add up" "$(sums | cut -d , -f 1,2,6,7)" \
    "1 count, all seconds 1.0000, reverse True, rest True"
succeeds "bench: the same as text" bench --backend cpu --gradients --layers
same "bench: a line for the reverse passes" "$(grep -c 'dense forward passes$' "$T/.out")" 1
same "bench: a line for every op, back from all but the first, and one for the rest" \
    "$(grep -c ' > ' "$T/.out") $(grep -c ' transposed ' "$T/.out") $(grep -c ', waiting' "$T/.out")" "45 22 1"
succeeds "bench: an instruction set" bench --backend cpu --isa portable --json
same "bench: it is the one that was asked for" "$(sed -n 's/.*"isa":"\([a-z]*\)".*/\1/p' "$T/.out")" portable
fails 2 "'mmx' is unknown" "bench: an instruction set that is none" bench --backend cpu --isa mmx

# bench/throughput.py. Its peers are a stand-in that answers what it is told to; one of them is not installed.
cat >"$T/python" <<'END'
#!/bin/sh
case "$*" in *"--peer openvino"*) echo "no module named openvino" >&2; exit 1 ;; esac
case "$*" in *"--peer pytorch"*) rate=20 ;; *) rate=40 ;; esac
echo '{"version": "Stand-in 1.0", "batch": 8}'
case "$DIES$*" in yes*"--peer torch.compile"*) read -r seconds; echo "out of memory" >&2; exit 1 ;; esac
while read -r seconds; do echo "{\"images_per_second\": $rate}"; done
END
chmod +x "$T/python"
throughput() {
    COAR_ISA=portable PEERS_PYTHON=$T/python python3 bench/throughput.py "$(dirname "$COAR")" --networks resnet20 --rounds 2 \
        --seconds 0.02 --peers "$@"
}
printf 'before\n<!-- throughput: make bench PEERS=1 writes from here -->\nold\n<!-- throughput: to here -->\nafter\n' >"$T/page.md"
succeeds "throughput: beside peers" throughput --write "$T/page.md" --json "$T/rounds.json"
same "throughput: the page around the table stays" "$(sed -n '1p;$p' "$T/page.md") $(grep -c old "$T/page.md")" $'before\nafter 0'
same "throughput: one that cannot be had is left out" "$(grep -c 'left out: openvino: no module named openvino' "$T/.err")" 1
rows() {
    "$PYTHON" - "$T/rounds.json" "$T/page.md" <<'END'
import json, sys
sides = {s["side"]: s["rates"] for s in json.load(open(sys.argv[1]))["sides"]}
row = [c.strip() for c in next(l for l in open(sys.argv[2]) if l.startswith("| ResNet-20")).split("|")[1:-1]]
coar = sum(sides["coar"]) / 2
right = abs(float(row[7]) * 20 / coar - 1) < 0.01 and abs(float(row[11]) * 40 / coar - 1) < 0.01
print([len(rates) for rates in sides.values()], sorted(sides), row[6], row[8], row[10], right)
END
}
same "throughput: medians and ratios" "$(rows)" \
    "[2, 2, 2, 2] ['coar', 'onnxruntime', 'pytorch', 'torch.compile'] 20.0 (20.0 to 20.0) 40.0 (40.0 to 40.0) - True"
one_dies() { DIES=yes throughput --rounds 1 --json "$T/rounds.json"; }
succeeds "throughput: one of its peers dies in a round" one_dies
same "throughput: it says so" "$(grep -c 'left out: torch.compile: out of memory' "$T/.err")" 1
same "throughput: the others are measured" "$(grep -o '"side": "[^"]*"' "$T/rounds.json" | tr '\n' ' ')" \
    '"side": "coar" "side": "pytorch" "side": "onnxruntime" '
one_round() { throughput --rounds 0 2>&1 | tail -n 1; }
same "throughput: no rounds" "$(one_round)" "throughput.py: error: argument --rounds: '0' is no number from 1 on"
echo nothing >"$T/page.md"
fails 1 "lacks the lines" "throughput: a page without a place for the table" throughput --write "$T/page.md"
fails 1 "raise --memory" "bench: memory that no reverse pass fits in" bench --backend cpu --gradients --memory 1M
finish
