# shared.sh - published networks on CIFAR-10: margins against PyTorch's, accuracies, equal bytes for any thread count and memory.
. tests/cli/lib.sh
if [ ! -d "$SHARED/golden" ] || [ -z "${PYTHON:-}" ]; then
    skip "published networks on CIFAR-10" "no shared material in $SHARED, or no Python with h5py"
    finish
fi
# fp32 is named where auto might take bf16: goldens and accuracies are PyTorch's in fp32.
G=$SHARED/golden M=$SHARED/models
tar -C "$T" -xzf "$SHARED/cifar10/test-jpeg.tar.gz"
succeeds "pack 10,000 JPEG files" "$COAR" pack --from imagefolder "$T/test" \
    --mean .485,.456,.406 --std .229,.224,.225 -o "$T/test.h5"

golden() { # name, run, margins, baseline, [rows columns]
    local name=$1
    shift
    if "$PYTHON" tests/python/goldens.py "$name" "$1" "$G/$2" "$G/$3" 1e-3 "${@:4}" >"$T/.out" 2>&1; then
        pass "$(cat "$T/.out")"
    else
        fail "$name"
        note "$(cat "$T/.out")"
    fi
}

# The decoded pixels come first: every other golden hangs on them.
hash=$("$PYTHON" -c "
import h5py, numpy, hashlib
rows = numpy.load('$G/r20_examples.npy')
images = h5py.File('$T/test.h5')['images'][()][rows]
print(hashlib.sha256(images.tobytes()).hexdigest())")
same "decoded pixels of the 200 examples" "$hash" ad5863d90792b24aa4642757ade3a0f8334d728d6dcddc0455aa2b54aa8fe6c6

r20="--model $M/resnet20-cifar10.safetensors --data $T/test.h5"
succeeds "ResNet-20, 180 golden masks" "$COAR" ablate $r20 --precision fp32 --examples "@$G/r20_examples.npy" --sampler "file:$G/r20_masks.npy" -o "$T/r20.h5"
golden "ResNet-20, cpu" "$T/r20.h5" r20_margins.npy r20_baseline.npy
vit="--model $M/vit-cifar10.safetensors --data $T/test.h5"
succeeds "ViT, 40 golden masks" "$COAR" ablate $vit --precision fp32 --examples "@$G/vit_examples.npy" --sampler "file:$G/vit_masks.npy" -o "$T/vit.h5"
golden "ViT, cpu" "$T/vit.h5" vit_margins.npy vit_baseline.npy

# The reference backend is for reading, not for speed: a corner of the same goldens.
"$PYTHON" -c "
import numpy
numpy.save('$T/m20.npy', numpy.load('$G/r20_masks.npy')[:3]); numpy.save('$T/e20.npy', numpy.load('$G/r20_examples.npy')[:6])
numpy.save('$T/mvit.npy', numpy.load('$G/vit_masks.npy')[:2]); numpy.save('$T/evit.npy', numpy.load('$G/vit_examples.npy')[:6])
numpy.save('$T/ones.npy', numpy.ones((1, 688), bool))"
succeeds "ResNet-20, reference backend" "$COAR" ablate $r20 --backend reference --examples "@$T/e20.npy" --sampler "file:$T/m20.npy" -o "$T/r20ref.h5"
golden "ResNet-20, reference" "$T/r20ref.h5" r20_margins.npy r20_baseline.npy 3 6
succeeds "ViT, reference backend" "$COAR" ablate $vit --backend reference --examples "@$T/evit.npy" --sampler "file:$T/mvit.npy" -o "$T/vitref.h5"
golden "ViT, reference" "$T/vitref.h5" vit_margins.npy vit_baseline.npy 2 6

# Whole test set. PyTorch: 81.03 % and 82.56 %.
accuracy() { "$PYTHON" -c "
import h5py, numpy
f = h5py.File('$1'); b = f['baseline/margin'][()]
assert (f['ablations/margin'][0] == b).all(), 'an all-ones mask must give the baseline, to the bit'
a = 100 * (b > 0).mean(); print(f'{a:.2f}', 'ok' if abs(a - $2) <= .1 else 'expected $2')"; }
succeeds "ResNet-20 on 10,000 images" "$COAR" ablate $r20 --precision fp32 --sampler "file:$T/ones.npy" -o "$T/all20.h5"
same "ResNet-20: accuracy" "$(accuracy "$T/all20.h5" 81.03 | cut -d' ' -f2-)" ok
"$PYTHON" -c "import numpy; numpy.save('$T/ones32.npy', numpy.ones((1, 1136), bool))"
succeeds "ResNet-32 on 10,000 images" "$COAR" ablate --model "$M/resnet32-cifar10.safetensors" --data "$T/test.h5" --precision fp32 --sampler "file:$T/ones32.npy" -o "$T/all32.h5"
same "ResNet-32: accuracy" "$(accuracy "$T/all32.h5" 82.56 | cut -d' ' -f2-)" ok

# The script behind the tables of docs/edit.md, in small: edits of three methods, measured by masks of their components.
mkdir "$T/small"
for class in "$T"/test/*; do
    mkdir -p "$T/few/${class##*/}"
    find "$class" -type f | sort | head -n 100 | xargs -I{} mv {} "$T/few/${class##*/}"
done
succeeds "pack 1,000 of them" "$COAR" pack --from imagefolder "$T/few" --mean .485,.456,.406 --std .229,.224,.225 -o "$T/small/test.h5"
printf '<!-- bench/edit_cifar.py: %s -->\n' begin end >"$T/page.md"
succeeds "bench/edit_cifar.py --quick" "$PYTHON" -B bench/edit_cifar.py "$(dirname "$COAR")" "$T/small" --quick \
    --choices greedy@50 --others random --write "$T/page.md" --picture "$T/page.svg"
same "one choice in six tables and four panels, one beside it" \
    "$(grep -cE '^\| greedy 50 \|' "$T/page.md") $(grep -c '<polyline' "$T/page.svg") $(grep -c '^| random |' "$T/page.md")" "6 4 1"
corrected() { grep -E "$1" "$T/page.md" | grep -oE '^\| greedy 50 \| [0-9]+' | head -n 1; }
same "mistakes corrected: what edits say is what masks give" "$(corrected '%')" "$(corrected ' to ')"

# Threads and memory decide nothing but the time.
succeeds "1 thread, little memory" "$COAR" ablate $r20 --examples 0:45 --masks 70 --threads 1 --memory 48M -o "$T/t1.h5"
succeeds "2 threads" "$COAR" ablate $r20 --examples 0:45 --masks 70 --threads 2 -o "$T/t2.h5"
succeeds "the same bytes" "$PYTHON" tests/python/compare_runs.py "$T/t1.h5" "$T/t2.h5"
finish
