# solver.sh - coar fit --solver: residuals beside numpy's, both forms beside each other, the same bytes on any number of threads,
# memory as it was told.
. tests/cli/lib.sh
if [ -z "${PYTHON:-}" ]; then
    skip "coar fit --solver" "no Python with numpy and h5py"
    finish
fi
export PYTHONDONTWRITEBYTECODE=1
residual() { "$PYTHON" tests/python/fit_residual.py "$@"; }
fit() { # FILE [OPTION]...
    local file=$1
    shift
    "$COAR" fit --backend cpu --masks "$T/masks.npy" --outputs "$T/outputs.npy" -o "$T/$file" "$@"
}
weights() { "$PYTHON" -c "
import h5py, hashlib, sys
fit = h5py.File(sys.argv[1])['attributions'][sys.argv[2]]
print(hashlib.sha256(b''.join(fit[k][()].tobytes() for k in ('weight', 'penalty'))).hexdigest())" "$@"; }

for shape in "600 450" "300 700"; do
    # shellcheck disable=SC2086 # two numbers
    residual make "$T" $shape 40
    for estimator in ols ridge; do
        name="$estimator, ${shape/ / x }"
        succeeds "$name: conjugate gradients" fit i.h5 --estimator "$estimator" --solver iterative --threads 1 --json --force
        same "$name: they say so" "$(grep -o '"solver":"[a-z]*"' "$T/.out")" '"solver":"iterative"'
        succeeds "$name: the equations in numpy" residual check "$T" "$T/i.h5" "$estimator"
        succeeds "$name: a dense system" fit d.h5 --estimator "$estimator" --solver direct --threads 2 --json --force
        same "$name: it says so" "$(grep -o '"solver":"[a-z]*"' "$T/.out")" '"solver":"direct"'
        succeeds "$name: both forms" residual compare "$T/i.h5" "$T/d.h5" "$estimator"
        for threads in 2 3; do
            fit t.h5 --estimator "$estimator" --solver iterative --threads $threads --force >/dev/null 2>&1
            same "$name: the same on $threads threads" "$(weights "$T/t.h5" "$estimator")" \
                "$(weights "$T/i.h5" "$estimator")"
        done
    done
done

fails 2 "--solver 'dense' is not known: auto, direct or iterative" "an unknown one" fit x.h5 --solver dense
fails 2 "--solver iterative" "the lasso" fit x.h5 --estimator lasso --solver iterative
fails 1 "--memory: the fit of 300 masks and 700 components needs at least" "too little memory, told before anything is solved" \
    fit x.h5 --solver iterative --memory 1M
absent "nothing of these" "$T/x.h5"

# Memory: masks, outputs and workspace of a fit that is larger than the program.
residual make "$T" 3000 4500 1000
for estimator in ols ridge; do
    if "$PYTHON" - "$COAR" fit --backend cpu --masks "$T/masks.npy" --outputs "$T/outputs.npy" -o "$T/m.h5" --force \
        --threads 2 --estimator "$estimator" --solver iterative >"$T/.out" 2>&1 <<'EOS'
import re, resource, subprocess, sys
sys.argv += ["--memory", "4G"]
run = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
plans = re.findall(r"memory: (\d+) MiB planned", run.stderr)
if run.returncode or not plans:
    sys.exit(f"exit code {run.returncode}: {run.stderr}")
print(f"{plans[0]} MiB planned, {peak:.1f} MiB resident at most")
sys.exit(abs(int(plans[0]) / peak - 1) > 0.1)
EOS
    then pass "$estimator: $(cat "$T/.out")"; else fail "$estimator"; note "$(cat "$T/.out")"; fi
done
finish
