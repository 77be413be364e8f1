#!/bin/sh
# Throughput of `coar bench`, round by round, beside PyTorch doing the same (bench/peers.py) when asked for.
#
#   bench/run.sh BUILD [PEERS]     BUILD holds the coar binary; PEERS=1 also times PyTorch
#
# Rounds alternate between the two, so that what else the machine does falls on both; medians over the rounds are
# compared. Settings from the environment: MODELS, ALPHA, THREADS, ROUNDS, SECONDS_EACH; COAR_ISA holds both sides to an
# instruction set; PEERS_PYTHON names a Python that has torch, otherwise BUILD/peers becomes a virtual environment with
# it (pip's usual variables apply).
set -eu
build=${1:?usage: bench/run.sh BUILD [PEERS]}
peers=${2:-0}
models=${MODELS:-resnet20}
alpha=${ALPHA:-0.1}
threads=${THREADS:-$(nproc)}
rounds=${ROUNDS:-5}
seconds=${SECONDS_EACH:-5}
here=$(dirname "$0")

if [ "$peers" = 1 ] && [ -z "${PEERS_PYTHON:-}" ]; then
    PEERS_PYTHON=$build/peers/bin/python
    if ! "$PEERS_PYTHON" -c 'import torch' 2>/dev/null; then
        echo "bench: installing torch into $build/peers" >&2
        python3 -m venv "$build/peers"
        "$PEERS_PYTHON" -m pip install --quiet torch torchvision
    fi
fi
if [ "${COAR_ISA:-}" = avx2 ]; then
    export ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# number NAME < one JSON object on one line
number() { sed -n "s/.*\"$1\": *\\([0-9.eE+-]*\\).*/\\1/p"; }
# NAME of every line of $log that begins with TAG: their median
median() { sed -n "s/^$1 //p" "$log" | number "$2" | sort -g | awk '{v[NR]=$1} END {print (v[int((NR+1)/2)]+v[int(NR/2)+1])/2}'; }

sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | sort -u
for model in $models; do
    : >"$log"
    for round in $(seq "$rounds"); do
        line=$("$build/coar" bench --model "$model" --alpha "$alpha" --threads "$threads" --time "$seconds" \
            --precision fp32 --json)
        echo "coar $line" >>"$log"
        text="$model round $round: coar $(echo "$line" | number images_per_second)"
        if [ "$peers" = 1 ]; then
            line=$("$PEERS_PYTHON" "$here/peers.py" --model "$model" --alpha "$alpha" --threads "$threads" \
                --time "$seconds")
            echo "peer $line" >>"$log"
            text="$text, pytorch $(echo "$line" | number images_per_second)"
        fi
        echo "$text images/s"
    done
    coar=$(median coar images_per_second)
    awk -v m="$model" -v a="$alpha" -v t="$threads" -v c="$coar" -v p="$(median coar peak_fraction)" \
        -v e="$(median coar executed_fraction)" \
        'BEGIN {printf "%s, alpha %s, %s threads: coar %.0f images/s, %.0f %% of peak (dense flops), %.0f %% of them executed\n",
                m, a, t, c, 100 * p, 100 * e}'
    if [ "$peers" = 1 ]; then
        awk -v m="$model" -v c="$coar" -v p="$(median peer images_per_second)" \
            'BEGIN {printf "%s: pytorch %.0f images/s; coar / pytorch = %.2f\n", m, p, c / p}'
    fi
done
