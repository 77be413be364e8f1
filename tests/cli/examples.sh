# examples.sh - the editing tasks of examples/edit do what their README says: from generated pictures to an edit, by direction
# and size, on examples that chose nothing.
. tests/cli/lib.sh
if [ -z "${PYTHON:-}" ]; then
    skip "examples/edit" "no Python with numpy and h5py"
    finish
fi

# holds NAME EXPRESSION: of the last task's JSON; before(SET), after(SET) are scores in points
holds() {
    same "$1" "$("$PYTHON" - "$T/.out" "$2" <<'EOP'
import json, sys
result = json.load(open(sys.argv[1]))
def score(when, name, key="accuracy"):
    return 100 * result["sets"][name][when][key]
def before(*names):
    return score("before", *names)
def after(*names):
    return score("after", *names)
figures = ", ".join(f"{name} {before(name):.1f} -> {after(name):.1f}" for name, s in result["sets"].items() if s["examples"])
print(eval(sys.argv[2]) or f"{result['k']} components: {figures}")
EOP
)" True
}

task() { COAR=$COAR OUT=$T/$1 QUICK=1 succeeds "$1" examples/edit/run.sh "$@" --json; }

for task in fix-error fix-error-shapes; do
    task $task
    holds "$task: the error is one no more, and others stay right" \
        "before('target') == 0 and after('target') == 100 and after('test') > before('test') - 2.5"
done
task forget-class
holds "the class is forgotten, the others are not" "after('target_test') < 5 and after('test') > before('test') - 5"
task subpopulation
holds "the worst pair gains 20 points, the pairs' mean loses nothing" \
    "after('test', 'worst') >= before('test', 'worst') + 20 and after('test', 'average') > before('test', 'average') - 2"
for task in backdoor typographic; do
    task $task
    holds "$task: as good as without the attack, to 10 points, which costs 2 at most" \
        "after('target_test') > before('test') - 10 > before('target_test') and after('test') > before('test') - 2"
done
examples/edit/run.sh none >"$T/.out" 2>"$T/.err"
same "an unknown task: usage" "$? $(grep -c 'fix-error|forget-class' "$T/.err") $(wc -c <"$T/.out")" "2 1 0"
finish
