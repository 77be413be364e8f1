#!/usr/bin/env bash
# One editing task from its data to edited weights. README.md tells what each shows.
#   examples/edit/run.sh fix-error|forget-class|subpopulation|backdoor|typographic [options of coar edit, as --json]
# Files go to build/edit/TASK ($OUT), which is made anew. Results are on stdout, all else on stderr. $COAR: the program.
set -eu
cd "$(dirname "$0")/../.."
task=${1:-}
[ $# = 0 ] || shift
coar=${COAR:-build/coar}
out=${OUT:-build/edit/$task}
networks=examples/edit/networks

say() { printf '\n$ %s\n' "$*" >&2; "$@"; }

# pictures TASK: its sets as out/SET.npy, with labels.npy and groups.csv
pictures() {
    local python
    python=$(tools/find-python.sh numpy)
    [ -n "$python" ] || { tools/setup.sh pictures && python=$(tools/find-python.sh numpy); }
    say "$python" -B examples/edit/generate.py "$1" "$out" >&2
}

# pack SET [options]: out/SET.h5
pack() { say "$coar" pack --from npy "$out/$1.npy" --labels "$out/labels.npy" "${@:2}" -o "$out/$1.h5" >&2; }

# attribute NAME MODEL DATA EXAMPLES: out/NAME-run.h5, with leave-one-out and gradients to compare with
attribute() {
    say "$coar" run --model "$2" --data "$3" --examples "$4" --passes 64 --masks 512 --estimator grad -o "$out/$1-run.h5" >&2
    say "$coar" evaluate "$out/$1-run.h5" --baselines >&2
}

edit() { say "$coar" edit "$@" --compare -o "$out/edited.safetensors"; }

digits() {
    say "$coar" pack --from npy data/digits-images.npy --labels data/digits-labels.npy -o "$out/digits.h5" >&2
    attribute digits data/digits-resnet.safetensors "$out/digits.h5" @data/digits-test-rows.npy
}

case $task in
fix-error | forget-class | subpopulation | backdoor | typographic)
    rm -rf "$out"
    mkdir -p "$out"
    ;;
*)
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
    ;;
esac

case $task in
fix-error) # of the digits the network gets one wrong
    digits
    edit "$out/digits-run.h5" --target wrong --reference '@data/digits-test-rows.npy & 0:250' --raise \
        --max-k 10 --until 100 "$@"
    ;;
forget-class)
    digits
    edit "$out/digits-run.h5" --target '@data/digits-test-rows.npy & 0:600 & class:7' \
        --reference '@data/digits-test-rows.npy & 0:300 & rest' --lower --max-k 20 "$@"
    ;;
subpopulation)
    pictures subpopulation
    pack pictures --groups "$out/groups.csv"
    attribute pictures $networks/subpopulation.safetensors "$out/pictures.h5" 0:200
    edit "$out/pictures-run.h5" --target 0:60 --reference 60:200 --raise --max-k 40 \
        --validation 200:600 --test 600:1600 "$@"
    ;;
backdoor)
    pictures backdoor
    for set in clean triggered; do
        pack $set
        attribute $set $networks/backdoor.safetensors "$out/$set.h5" 0:20
    done
    edit "$out/clean-run.h5" --target "$out/triggered-run.h5:0:20" --reference 0:20 --raise --max-k 30 \
        --validation 200:600 --test 600:1600 --target-test "$out/triggered-run.h5:600:1600" "$@"
    ;;
esac
