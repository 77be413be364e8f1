# estimators.sh - bench/estimators.py --quick: tables are whole, figures are coar's, a second call measures nothing.
. tests/cli/lib.sh
if [ -z "${PYTHON:-}" ]; then
    skip "bench/estimators.py" "no Python with numpy and h5py"
    finish
fi
export PYTHONDONTWRITEBYTECODE=1
measure() { "$PYTHON" bench/estimators.py "$(dirname "$COAR")" "$T/work" --quick --threads 1 "$@"; }
succeeds "the tables" measure
cp "$T/.out" "$T/tables.md"
same "rows of fits, of coar run and of baselines, with intervals" "$(grep -c ' to .* | 1 |$' "$T/tables.md")" 16
same "tables, as cells:rows" \
    "$(awk -F '|' '/^\|/ {n[NF - 2]++} END {for (k in n) print k ":" n[k]}' "$T/tables.md" | sort -n | tr '\n' ' ')" \
    "9:24 14:16 "

# A row's correlations are what coar evaluate says of that fit; its seconds are the sum of its commands'.
succeeds "coar evaluate" "$COAR" evaluate "$T/work/digits-resnet-0-k16.h5" --fit eb-m200 --alpha 0.1,0.05 --masks 40 \
    --seed 1000 --json
same "eb's correlations, at the alpha of its masks and at the other one" \
    "$(grep -m 1 '^| eb-m200 ' "$T/tables.md" | cut -d '|' -f 6,8 | tr -d ' ')" "$("$PYTHON" - "$T/.out" <<'EOF'
import json, sys
print("|".join("%.3f" % e["pearson_mean"] for e in json.load(open(sys.argv[1]))["evaluations"]))
EOF
)"
same "seconds of ols: both extensions and the fit; of grad+eb the reverse passes, too" "$("$PYTHON" - "$T" <<'EOF'
import json, re, sys
took = json.load(open(sys.argv[1] + "/work/results.json"))
tables = open(sys.argv[1] + "/tables.md").read()
masks = ["ablate k16 64", "ablate k16 200"]
for name, steps in {"ols-m200": masks, "grad+eb-k16-m200": ["gradients 16"] + masks,
                    "grad-k16-m64": ["gradients 16"] + masks[:1]}.items():
    row = next(line for line in tables.splitlines() if line.startswith(f"| {name} |")).split("|")
    total = sum(took["digits-resnet-0 " + step] for step in steps + ["fit " + name])
    print(abs(float(row[4]) - total) <= .051 or f"{name}: {row[4]}, steps {total}")
EOF
)" "$(printf 'True\nTrue\nTrue')"

# Least squares of 4.4 n masks is compared with the fit that takes least time of those that correlate as well.
same "least squares, and the cheapest fit that correlates as well" "$("$PYTHON" - "$T/tables.md" <<'EOF'
import re, sys
rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in open(sys.argv[1]) if line.startswith("|")]
rows = [row for row in rows if len(row) == 9]
fits = {row[0]: row[3:5] for row in rows if re.search(r"-[km]\d+$", row[0])}
_, _, ols, *of_ols, name, seconds, correlation, _ = next(row for row in rows if row[0] == "digits-resnet")
better = [fit for fit, (s, c) in fits.items() if float(s) < float(seconds) and float(c) > float(of_ols[1])]
print(ols, of_ols == fits[ols], [seconds, correlation] == fits[name], float(correlation) >= float(of_ols[1]), better)
EOF
)" "ols-m792 True True True []"

# A large job's fit knows what it will correlate with (8 examples: within .04).
same "large jobs: predicted correlation and the one found" "$(awk -F '|' '/^\| 200 \| 300 \| 8 / {
    print ($8 - $9 < .04 && $9 - $8 < .04 && $10 > $9) ? "close" : $8 " and " $9 ", without noise " $10}' \
    "$T/tables.md")" close

# Least squares of planted weights: the share of the intervals that hold them is 90 % but for chance (11,520 pairs).
share=$(grep -A 4 'planted' "$T/tables.md" | grep '^| ols ' | cut -d '|' -f 5)
if awk -v s="$share" 'BEGIN {exit !(s > .87 && s < .93)}'; then pass "coverage"; else fail "coverage: $share"; fi

succeeds "a second call" measure
same "it prints the same" "$(diff "$T/tables.md" "$T/.out" | head -n 4)" ""
same "it calls coar for nothing" "$(grep -c '^coar [a-z]* ' "$T/.err")" 0
succeeds "--print of an empty folder" "$PYTHON" bench/estimators.py "$(dirname "$COAR")" "$T/empty" --quick --print
same "prints and writes nothing" "$(cat "$T/.out"; ls "$T/empty")" ""
"$PYTHON" - "$T/work/results.json" <<'EOF'
import json, sys
took = json.load(open(sys.argv[1]))
json.dump({key: value for key, value in took.items() if not key.endswith("evaluate eb-m200")}, open(sys.argv[1], "w"))
EOF
succeeds "--print of what is there" measure --print
same "rows of ridge and of eb, which is missing among the fits" \
    "$(grep -c '^| ridge-m200 ' "$T/.out") $(grep -c '^| eb-m200 ' "$T/.out")" "2 1"
"$PYTHON" bench/estimators.py "$(dirname "$COAR")" "$T/work" --networks resnet21 >/dev/null 2>"$T/.err"
same "an unknown network" "$? $(tail -n 1 "$T/.err" | grep -o 'no network resnet21')" "2 no network resnet21"
finish
