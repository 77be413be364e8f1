# selftest.sh - `coar selftest --comm`: every size by every way, right on all ranks, and one message where it cannot be done.
. tests/cli/lib.sh
. tests/mpi/lib.sh
BACKEND=(--backend cpu)

ranks 3 selftest --comm "${BACKEND[@]}" --bytes 3M >"$T/three"
same "3 ranks: exit code" $? 0
same "3 ranks: broadcasts and sums of 5 sizes each" "$(grep -cE '^ok +MPI +(broadcast|sum) ' "$T/three")" 10
same "3 ranks: the largest" "$(grep -c ' 3145728 bytes      0 wrong' "$T/three")" 2
same "3 ranks: the last line" "$(tail -n 1 "$T/three" | sed 's/, [0-9.]* s$//')" "selftest --comm: 3 ranks: 10 cases, 0 failed"
ranks 2 selftest --comm "${BACKEND[@]}" --bytes 8 --json >"$T/json"
same "--json" "$(tail -n 1 "$T/json" | sed 's/,"seconds".*//')" '{"ranks":2,"nccl":false,"cases":2,"failed":0'
"$COAR" selftest --comm "${BACKEND[@]}" --bytes 1K >"$T/one"
same "one process alone" "$(tail -n 1 "$T/one" | sed 's/, [0-9.]* s$//')" "selftest --comm: 1 rank: 6 cases, 0 failed"
fails 2 "--bytes" "too few bytes" ranks 2 selftest --comm "${BACKEND[@]}" --bytes 7
fails 2 "fpga" "a backend that there is not, on all ranks: one message" ranks 2 selftest --comm --backend fpga
finish
