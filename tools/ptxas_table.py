#!/usr/bin/env python3
"""Registers, shared memory and theoretical occupancy of every kernel and architecture, as ptxas said when they were built.

    ptxas_table.py build/obj/kernels/cuda            prints the table of docs/gpu.md (make cuda-all first)
    ptxas_table.py build/obj/kernels/cuda --write    puts it there, between its marks
    ptxas_table.py build/obj/kernels/cuda --check    TAP: no kernel spills or uses a stack (tests/run.sh)

Reads the .ptxas files beside the objects. Threads are those of __launch_bounds__, read from the PTX that nvcc makes of each
source ($NVCC; without it occupancy is left out). Python's standard library alone.
"""
import os
import re
import subprocess
import sys

# Technical specifications per compute capability (CUDA C++ Programming Guide; the toolkit's cuda_occupancy.h): resident warps,
# resident blocks and KiB of shared memory of a multiprocessor. All have 65,536 registers, given to warps in units of 256, to
# four warps at a time; shared memory goes in units of 128 bytes, and CUDA keeps 1 KiB of each block for itself.
LIMITS = {80: (64, 32, 164), 86: (48, 16, 100), 89: (48, 24, 100), 90: (64, 32, 228), 100: (64, 32, 228), 120: (48, 24, 100)}

# Dynamic shared memory is not the compiler's to know: bytes by kernel, from the constants that its launcher uses.
DYNAMIC = [
    (r"conv_mma_kernel<conv_mma_tile<\w+, (\d+), (\d+), (\d+), (\d+),", lambda m, n, row, stages: (m + n) * row * stages),
    (r"conv_f32_kernel<conv_f32_tile<(\d+), (\d+), (\d+),", lambda m, n, stages: (m + n) * 64 * stages),
    (r"attention_mma_kernel<\w+, (\d+)>", lambda width: 768 * width),
    (r"attention_reverse_mma_kernel<\w+, (\d+),", lambda width: 512 * width + 2 * (64 if width <= 64 else 32) * (4 * width + 8)),
    (r"attention_plain_kernel<", lambda: ((2 * 32 + 4 * 8) * 132 + 4 * 8 * 32) * 4),  # heads of 128, 8 warps
    (r"attention_reverse_kernel<", lambda: 2 * ((32 + 4 * 8) * 132 + 4 * 8 * 32) * 4),  # likewise
]


def occupancy(arch, threads, registers, shared):
    """Part of the resident warps that the multiprocessor can hold, by the limit that is met first."""
    warps_max, blocks_max, kib = LIMITS[arch]
    warps = (threads + 31) // 32
    per_warp = (registers * 32 + 255) // 256 * 256
    by_registers = 65536 // per_warp // 4 * 4 // warps
    by_shared = kib * 1024 // ((shared + 1024 + 127) // 128 * 128)
    return min(blocks_max, warps_max // warps, by_registers, by_shared) * warps / warps_max


def read_logs(folder):
    """{(file, mangled kernel): {arch: {registers, shared, spills, stack}}}"""
    kernels = {}
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".ptxas"):
            continue
        current = None
        for line in open(os.path.join(folder, name)):
            entry = re.search(r"Compiling entry function '(\w+)' for 'sm_(\d+)'", line)
            if entry:
                facts = kernels.setdefault((name[:-6], entry[1]), {})
                current = facts[int(entry[2])] = {"registers": 0, "shared": 0, "spills": 0, "stack": 0}
            stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)
            if stack and current is not None:
                current["stack"], current["spills"] = int(stack[1]), int(stack[2]) + int(stack[3])
            used = re.search(r"Used (\d+) registers", line)
            if used and current is not None:
                current["registers"] = int(used[1])
                shared = re.search(r"(\d+) bytes smem", line)
                current["shared"] = int(shared[1]) if shared else 0
                current = None
    return kernels


def short_name(name):
    """A kernel's name with its template's arguments, enumerators among them as `gather 1`; without its parameters."""
    name, depth = re.sub(r"^void ", "", name.replace("(anonymous namespace)::", "")), 0
    for at, character in enumerate(name):
        if character == "(" and not depth:
            name = name[:at]
            break
        depth += (character == "<") - (character == ">")
    return re.sub(r"\((?:\w+_)?(\w+)\)", r"\1 ", name)


def demangle(names):
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return dict(zip(names, map(short_name, text.splitlines())))


def threads_of(folder, files):
    """{mangled kernel: threads of a block} from the .maxntid lines of the PTX, which is kept beside the logs."""
    nvcc, found = os.environ.get("NVCC", "nvcc"), {}
    for file in files:
        source, ptx = f"kernels/cuda/{file}.cu", os.path.join(folder, file + ".ptx")
        if not os.path.exists(ptx) or os.path.getmtime(ptx) < os.path.getmtime(source):
            try:
                subprocess.run([nvcc, "-std=c++17", "-I.", "-arch=compute_80", "-ptx", source, "-o", ptx], check=True)
            except (OSError, subprocess.CalledProcessError):
                return {}
        for kernel, bounds in re.findall(r"\.entry (\w+)\([^{]*?\.maxntid ([\d, ]+)", open(ptx).read(), re.S):
            product = 1
            for number in bounds.split(","):
                product *= int(number)
            found[kernel] = product
    return found


def dynamic_shared(kernel):
    for pattern, size in DYNAMIC:
        match = re.search(pattern, kernel)
        if match:
            return size(*map(int, match.groups()))
    return 0


def table(folder, kernels):
    archs = sorted({arch for facts in kernels.values() for arch in facts})
    names = demangle([kernel for _, kernel in kernels])
    threads = threads_of(folder, sorted({file for file, _ in kernels}))
    heads = [f"sm_{arch}" for arch in archs]
    lines = [f"| kernel | threads | shared, bytes | registers: {', '.join(heads)} | occupancy, %: {', '.join(heads)} |",
             "|---|---|---|---|---|"]
    rows = {}
    for (file, kernel), facts in kernels.items():
        name, count = names[kernel], threads.get(kernel)
        shared = max(f["shared"] for f in facts.values()) + dynamic_shared(name)
        registers = ", ".join(str(facts[a]["registers"]) if a in facts else "-" for a in archs)
        parts = [f"{100 * occupancy(a, count, facts[a]['registers'], shared):.0f}" if a in facts and count else "-" for a in archs]
        if (file, name) in rows:
            sys.exit(f"{file}: two kernels are named {name}: short_name must tell them apart")
        rows[(file, name)] = f"| `{name}` | {count or '-'} | {shared:,} | {registers} | {', '.join(parts)} |"
    return "\n".join(lines + [rows[key] for key in sorted(rows)])


def check(kernels):
    bad, names = 0, demangle([kernel for _, kernel in kernels])
    for number, ((file, kernel), facts) in enumerate(sorted(kernels.items()), 1):
        wrong = [f"sm_{a}: {f['spills']} bytes spilled, {f['stack']} of stack" for a, f in sorted(facts.items())
                 if f["spills"] or f["stack"]]
        for line in wrong:
            print(f"# {line}")
        bad += bool(wrong)
        print(f"{'not ok' if wrong else 'ok'} {number} - {file}: {names[kernel]}: no spills, no stack")
    print(f"1..{len(kernels)}")
    return 1 if bad or not kernels else 0


def write(text):
    path, begin, end = "docs/gpu.md", "<!-- ptxas_table.py -->", "<!-- end of ptxas_table.py -->"
    page = open(path).read()
    before, rest = page.split(begin)
    open(path, "w").write(before + begin + "\n" + text + "\n" + end + rest.split(end)[1])


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    kernels = read_logs(sys.argv[1])
    if "--check" in sys.argv:
        sys.exit(check(kernels))
    if not kernels:
        sys.exit(f"{sys.argv[1]}: no .ptxas files: build with CUDA=1 first")
    if "--write" in sys.argv:
        write(table(sys.argv[1], kernels))
    else:
        print(table(sys.argv[1], kernels))


main()
