#!/usr/bin/env bash
# Runs the tests and prints `N passed, N failed, N skipped` as its last line.
#   quick  unit tests and goldens
#   cuda   the CUDA backend without a GPU (docs/gpu.md): its kernels over the shim, its host side over stand-ins where there are
#          CUDA's headers
#   full   both, and the command line, kills and restarts, sanitizers, fuzz, other readers of our files
# Every test is a program that speaks TAP. COAR_SHARED names the folder of larger goldens (absent: those tests are skipped);
# PYTHON a Python with numpy and h5py.
set -u
cd "$(dirname "$0")/.." || exit 1
mode=${1:-full}
case $mode in quick | full | cuda) ;; *) echo "tests/run.sh: '$mode' is neither quick, full nor cuda" >&2; exit 2 ;; esac
logs=build/test-logs
rm -rf "$logs"
mkdir -p "$logs"
passed=0 failed=0 skipped=0
export TEST_DIR=tests OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-2} PYTHON=${PYTHON:-$(tools/find-python.sh)}
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1
export TSAN_OPTIONS=halt_on_error=1:suppressions=tests/tsan.supp
# HDF5 and OpenBLAS keep memory until the process ends; their one-time allocations are no leaks of ours.
export LSAN_OPTIONS=suppressions=tests/lsan.supp:print_suppressions=0

# Runs one TAP program; its output, exit code and seconds go to the logs.
launch() { # name, command...
    local base=$logs/${1//\//-} start=$SECONDS
    shift
    timeout -k 10 900 "$@" >"$base.log" 2>"$base.err" # a test that hangs has failed
    echo "$? $((SECONDS - start))" >"$base.code"
}

# Counts what it said. A program that dies, or prints fewer tests than its plan, fails once more.
count() { # name
    local name=$1 base=$logs/${1//\//-} log plan seen good bad skips code seconds
    log=$base.log
    read -r code seconds <"$base.code"
    bad=$(grep -c '^not ok' "$log")
    skips=$(grep -c '^ok .*# SKIP' "$log")
    good=$(($(grep -c '^ok' "$log") - skips))
    plan=$(sed -n 's/^1\.\.\([0-9]*\).*/\1/p' "$log" | tail -n 1)
    seen=$((good + bad + skips))
    if [ "${plan:-none}" != "$seen" ] || { [ "$code" != 0 ] && [ "$bad" = 0 ]; }; then
        bad=$((bad + 1))
        echo "not ok - $name: exit code $code, plan ${plan:-none}, $seen tests seen" | tee -a "$log"
        tail -n 15 "$base.err"
    fi
    passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + skips))
    [ "$bad" = 0 ] || grep -E '^(not ok|#)' "$log" | head -n 30
    grep -E '^ok .*# SKIP' "$log" | sed "s|^ok [0-9]* - |skipped: $name: |"
    printf '%-32s %4d passed %3d failed %3d skipped  %3d s\n' "$name" "$good" "$bad" "$skips" "$seconds"
}

tap() { # name, command...
    launch "$@"
    count "$1"
}

# Programs of a folder, as many at a time as there are cores.
programs() { # folder, prefix, [names]
    local folder=$1 prefix=$2 names program command
    shift 2
    names=${*:-$(cd "$folder" && find . -maxdepth 1 -type f -perm -u+x -printf '%f\n' | sort)}
    for program in $names; do
        while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
        case $program in *.sh) command="bash" ;; *) command= ;; esac
        launch "$prefix${program%.sh}" $command "$folder/$program" &
    done
    wait
    for program in $names; do count "$prefix${program%.sh}"; done
}

scripts() { # folder
    (cd "$1" && ls ./*.sh) | sed 's|^\./||; /^lib\.sh$/d'
}

# Builds into its own folder below build/: without CUDA but for `release`, which has it where nvcc is, and `simt`.
build() { # configuration, [CUDA=...], targets...
    local config=$1 log
    shift
    log=$logs/build-${*//[^a-zA-Z0-9]/}-$config.log
    make --no-print-directory -j"$(nproc)" CONFIG="$config" "$@" >"${log:0:200}" 2>&1 && return
    grep -E 'error|Error|undefined' "${log:0:200}" | head -n 20
    failed=$((failed + 1))
    echo "not ok - build of $config $*"
    return 1
}

# Programs that run on more than one thread or process; the thread sanitizer has nothing to say about the others.
threaded="core cpu cpu_gradients data fit gradient_units images reference selftest store store_gradients store_journal store_parts workers"

# The CUDA backend without a GPU. Kernels: over the shim; every access checked; under the address sanitizer. Host side: also under the
# address and the thread sanitizer.
cuda_without_gpu() {
    local headers
    # A fiber's stack is one to the sanitizer as well, and it would map and unmap a shadow of it at every launch.
    export ASAN_OPTIONS=detect_leaks=1
    headers=$(tools/cuda-headers.sh)
    if grep -qs '^1 ' build/obj/cuda; then
        tap kernels/registers "${PYTHON:-python3}" tools/ptxas_table.py build/obj/kernels/cuda --check
    else
        skipped=$((skipped + 1))
        echo "skipped: kernels/registers: build/ was made without nvcc, so ptxas has said nothing of spilled registers"
    fi
    build release CUDA=simt kernel-tests ${headers:+host-tests binaries} || return
    programs build/simt/tests/simt simt/
    programs build/simt/tests/kernels kernels/
    if build check CUDA=simt kernel-tests; then
        programs build/simt/check/tests/simt check/simt/ # all planted bugs
        programs build/simt/check/tests/kernels check/kernels/
    fi
    build asan CUDA=simt kernel-tests ${headers:+host-tests}
    programs build/simt/asan/tests/simt asan/simt/
    programs build/simt/asan/tests/kernels asan/kernels/
    if [ -z "$headers" ]; then
        skipped=$((skipped + 1))
        echo "skipped: the CUDA backend's host side: no headers of CUDA's runtime (a toolkit, or tools/cuda-headers.sh install)"
        return
    fi
    programs build/simt/tests cuda/
    programs build/simt/asan/tests asan/cuda/
    build release CUDA=simt plan-tests && tap cudnn_plans build/simt/plans/cudnn_plans
    # shellcheck disable=SC2046
    build tsan CUDA=simt host-tests && programs build/simt/tsan/tests tsan/cuda/ \
        $(cd build/simt/tsan/tests && find . -maxdepth 1 -type f -perm -u+x ! -name nccl -printf '%f\n' | sort)
    skipped=$((skipped + 1))
    echo "skipped: tsan/cuda/nccl: slowed down so much, its ranks do not agree equally often on a call that fails, and wait"
    # shellcheck disable=SC2046
    BUILD=build/simt programs tests/cuda cuda/ $(scripts tests/cuda)
}

# Before anything is built: what is installed here may be built with.
[ "$mode" != full ] || tools/setup.sh test || exit 1

if [ "$mode" != cuda ]; then
    build release units binaries
    programs build/tests ""
    # Other flags than the Makefile's may spill what they like.
    grep -qs -e '-O3' build/obj/flags && tap loops "${PYTHON:-python3}" tools/kernel_loops.py build/obj/kernels --check
fi

if [ "$mode" = full ]; then
    PYTHON=${PYTHON:-$(tools/find-python.sh)}
    export PYTHON
    # shellcheck disable=SC2046
    programs tests/cli cli/ $(scripts tests/cli)
    for script in $(scripts tests/mpi); do tap "mpi/${script%.sh}" bash "tests/mpi/$script"; done # ranks fill the cores
    tap slurm bash tests/slurm/slurm.sh
    export TEST_REDUCED=1
    build asan CUDA=0 units fuzzers
    programs build/asan/tests asan/
    programs build/asan/fuzz fuzz/
    export OPENBLAS_NUM_THREADS=1
    # shellcheck disable=SC2086
    build tsan CUDA=0 $(printf 'build/tsan/tests/%s ' $threaded)
    # shellcheck disable=SC2086
    programs build/tsan/tests tsan/ $threaded
    unset TEST_REDUCED
fi

[ "$mode" = quick ] || cuda_without_gpu

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
