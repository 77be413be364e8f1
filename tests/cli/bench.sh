#!/usr/bin/env bash
# bench.sh - what `coar bench` prints; no time is asserted.
. tests/cli/lib.sh

bench() { "$COAR" bench --model resnet20 --batch 8 --time 0.1 --threads 2 "$@"; }
number() { sed -n "s/.*\"$1\":\([-0-9.e+]*\).*/\1/p" "$T/.out"; }
positive() { # NAME KEY...
    local name=$1 key
    shift
    for key in "$@"; do
        awk -v x="$(number "$key")" 'BEGIN { exit !(x + 0 > 0) }' && continue
        fail "$name"
        note "$key is '$(number "$key")': $(cat "$T/.out")"
        return
    done
    pass "$name"
}

succeeds "bench: masked passes" bench --backend cpu --json
positive "bench: rates" images_per_second images_per_second_min images_per_second_max executed_fraction peak_fraction memory_bytes
same "bench: no reverse passes unless asked" "$(number reverse_cost)" ""
succeeds "bench: reverse passes beside forward passes" bench --backend cpu --gradients --json
positive "bench: rates of both" images_per_second reverse_per_second reverse_per_second_min reverse_per_second_max reverse_cost
same "bench: nothing is ablated in the forward passes" "$(number alpha)" 0
succeeds "bench: the same as text" bench --backend cpu --gradients
same "bench: a line for the reverse passes" "$(grep -c 'dense forward passes$' "$T/.out")" 1
fails 1 "raise --memory" "bench: memory that no reverse pass fits in" bench --backend cpu --gradients --memory 1M
finish
