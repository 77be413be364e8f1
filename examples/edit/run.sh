#!/usr/bin/env bash
# One editing task from its data to edited weights. README.md tells what each shows.
#   examples/edit/run.sh TASK [options of coar edit]
# TASK: fix-error|fix-error-shapes|forget-class|subpopulation|backdoor|typographic|
#       cifar-fix-error|cifar-forget-class|cifar-backdoor (with the images and networks of $COAR_SHARED, default ../shared).
# Files go to build/edit/TASK, which is made anew, or to the empty folder $OUT. Results are on stdout, all else on stderr.
# $COAR: the program; QUICK=1: fewer passes, and no other ways to choose components beside it.
set -eu
cd "$(dirname "$0")/../.."
task=${1:-}
[ $# = 0 ] || shift
coar=${COAR:-build/coar}
out=${OUT:-build/edit/$task}
networks=examples/edit/networks
shared=${COAR_SHARED:-../shared}
resnet20=$shared/models/resnet20-cifar10.safetensors
passes=(--passes 32 --masks 128 --eval-masks 40) compare=(--compare)
[ -z "${QUICK:-}" ] || passes=(--passes 16 --masks 64 --eval-masks 8) compare=()

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
    say "$coar" run --model "$2" --data "$3" --examples "$4" "${passes[@]}" --estimator grad -o "$out/$1-run.h5" >&2
    [ -n "${QUICK:-}" ] || say "$coar" evaluate "$out/$1-run.h5" --baselines >&2
}

edit() { say "$coar" edit "$@" "${compare[@]}" -o "$out/edited.safetensors"; }

# attack SET MODEL EXAMPLES [options]: makes pictures of SET as good as the same ones in `clean`
attack() {
    for set in clean "$1"; do
        pack "$set"
        attribute "$set" "$2" "$out/$set.h5" "0:$3"
    done
    edit "$out/clean-run.h5" --target "$out/$1-run.h5:0:$3" --reference "0:$3" --raise --max-k 30 \
        --validation 200:600 --test 600:1600 --target-test "$out/$1-run.h5:600:1600" "${@:4}"
}

digits() {
    say "$coar" pack --from npy data/digits-images.npy --labels data/digits-labels.npy -o "$out/digits.h5" >&2
    attribute digits data/digits-resnet.safetensors "$out/digits.h5" @data/digits-test-rows.npy
}

# cifar PART...: images of the shared material as out/PART.h5
cifar() {
    local part
    for part; do
        tar -xzf "$shared/cifar10/$part-jpeg.tar.gz" -C "$out"
        say "$coar" pack --from imagefolder "$out/$part" --mean .485,.456,.406 --std .229,.224,.225 -o "$out/$part.h5" >&2
        rm -r "${out:?}/$part"
    done
}

# out/cifar-run.h5 of ten test images of each class. An edit ablates one filter in 60 or fewer, and so do the passes for it.
cifar_run() {
    rows=$(seq -s, 0 100 9999) validation=$(seq -s, 1 10 9999) test=$(seq -s, 2 5 9999)
    [ -n "${QUICK:-}" ] || passes=(--passes 128 --masks 64 --eval-masks 40)
    passes+=(--alpha .01)
    cifar test
    attribute cifar "$resnet20" "$out/test.h5" "$rows"
}

case $task in
fix-error | fix-error-shapes | forget-class | subpopulation | backdoor | typographic) ;;
cifar-fix-error | cifar-forget-class | cifar-backdoor)
    [ -f "$resnet20" ] && [ -f "$shared/cifar10/test-jpeg.tar.gz" ] && [ -f "$shared/cifar10/train-jpeg.tar.gz" ] || {
        echo "$task: left out: no CIFAR-10 images and ResNet-20 in $shared (COAR_SHARED names their folder)" >&2
        exit 1
    }
    [ "$task" != cifar-backdoor ] || "${TORCH:-python3}" -c 'import torch' 2>/dev/null || {
        echo "$task: left out: ${TORCH:-python3} has no PyTorch (TORCH names a Python that has)" >&2
        exit 1
    }
    ;;
*)
    sed -n '2,7s/^# //p' "$0" >&2
    exit 2
    ;;
esac
[ -n "${OUT:-}" ] || rm -rf "$out"
mkdir -p "$out"

case $task in
fix-error) # of the digits the network gets one wrong
    digits
    edit "$out/digits-run.h5" --target wrong --reference '@data/digits-test-rows.npy & 0:250' --raise \
        --max-k 10 --until 100 "$@"
    ;;
fix-error-shapes) # picture 35 is a star that is taken for something else
    pictures typographic
    pack clean
    attribute clean $networks/typographic.safetensors "$out/clean.h5" 0:60
    edit "$out/clean-run.h5" --target 35 --reference '0:60 & rest' --raise --max-k 10 --until 100 --method greedy \
        --validation 200:600 --test 600:1600 "$@"
    ;;
forget-class)
    digits
    edit "$out/digits-run.h5" --target '@data/digits-test-rows.npy & 0:600 & class:7' \
        --reference '@data/digits-test-rows.npy & 0:300 & rest' --lower --max-k 20 "$@"
    ;;
subpopulation) # rows 0:60 are of the rare pairs, 60:200 as the training set, the others of all pairs alike
    pictures subpopulation
    pack pictures --groups "$out/groups.csv"
    attribute pictures $networks/subpopulation.safetensors "$out/pictures.h5" 0:200
    edit "$out/pictures-run.h5" --target 0:60 --reference 60:200 --raise --max-k 40 --until 80 \
        --validation 200:600 --test 600:1600 "$@"
    ;;
backdoor)
    pictures backdoor
    attack triggered $networks/backdoor.safetensors 20 "$@"
    ;;
typographic)
    pictures typographic
    attack attacked $networks/typographic.safetensors 60 --method greedy "$@"
    ;;
cifar-fix-error) # image 400 is the first of those with attributions that the network gets wrong
    cifar_run
    edit "$out/cifar-run.h5" --target 400 --reference "$rows & rest" --raise --max-k 10 --until 100 --method greedy \
        --validation "$validation" --test "$test" "$@"
    ;;
cifar-forget-class)
    cifar_run
    edit "$out/cifar-run.h5" --target "$rows & class:ship" --reference "$rows & rest" --lower --max-k 20 --method greedy \
        --validation "$validation & !class:ship" --test "$test & !class:ship" --target-test "$test & class:ship" "$@"
    ;;
cifar-backdoor) # PyTorch makes the network
    cifar train test
    say "${TORCH:-python3}" examples/edit/train/cifar_backdoor.py "$resnet20" \
        "$out/train.h5" "$out/test.h5" "$out" >&2
    passes+=(--alpha .025)
    attack triggered "$out/backdoor.safetensors" 100 --method greedy --harm-weight 32 "$@"
    ;;
esac
