#!/usr/bin/env python3
"""The inner loops of the CPU kernels' products as the compilers left them: whether anything is spilled, and cycles by llvm-mca.

    kernel_loops.py FOLDER...            prints the table of docs/performance.md
    kernel_loops.py FOLDER... --write    puts it there, between its marks
    kernel_loops.py FOLDER... --check    TAP: no inner loop of a product spills (tests/run.sh)

A FOLDER holds the objects of one compiler, ISA/FILE.o: build/obj/kernels, or build/clang/obj/kernels after
    make CUDA=0 CC=clang B=build/clang O=build/clang build/clang/libcoar.a
Reads them with objdump. The table needs llvm-mca 17 or later ($LLVM_MCA), for its models of the processors. Python's standard
library alone.
"""
import os
import platform
import re
import subprocess
import sys

FILES = {"conv": "direct convolution", "linear": "linear layers", "winograd": "Winograd's products", "attention": "attention"}
# And functions of conv.c and peak.c.
BF16_FILES = {"linear_bf16": "linear layers", "winograd_bf16": "Winograd's products"}
BF16 = "avx512bf16"  # whose loops they are; elsewhere they are emulations, which may do as they like
# The processors whose cycles are counted for an instruction set, as llvm-mca calls them.
PROCESSORS = {
    "avx2": [("znver3", "Zen 3")],
    "avx512": [("skylake-avx512", "Skylake-SP"), ("sapphirerapids", "Sapphire Rapids"), ("znver4", "Zen 4")],
    BF16: [("sapphirerapids", "Sapphire Rapids"), ("znver4", "Zen 4")],
}
COMPILERS = ("GCC 12", "Clang 14")  # whose loops are looked after; what others make of them is their affair
STEPS = 1000  # simulated; the first few fill the pipeline

FUSED = re.compile(r"(vfmadd\d+|vdpbf16)ps\b")
PRODUCT, SUM = re.compile(r"v?mulps\b"), re.compile(r"v?addps\b")
OTHER = re.compile(r"v?(sub|div|sqrt|max|min|cmp\w*)ps\b")
# On the stack (%rbp is a frame pointer where it is below zero), or in the other kind of register.
SPILLED = re.compile(r"(?!lea).*(\(%rsp|-0x[0-9a-f]+\(%rbp\))|v?mov[dq] +%(xmm\d+,%[re]|[re]\w+,%xmm)")
LOADED = re.compile(r"(?!lea).*\(%\w+.*\).*,")


class Loop:
    """An innermost loop: the text of its instructions, the last of them the jump back."""

    def __init__(self, function, body):
        def count(pattern):
            return sum(bool(pattern.match(i)) for i in body)

        self.function, self.body = function, body
        fused, products, sums = count(FUSED), count(PRODUCT), count(SUM)
        self.multiplies = fused or (products if products == sums else 0)  # portable code has no other
        self.is_product = self.multiplies >= 2 and not count(OTHER) and not (fused and products + sums)
        self.in_bf16 = any("vdpbf16ps" in i for i in body)
        self.spills, self.loads = count(SPILLED), count(LOADED)


def output_of(*command, stdin=None):
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout


def compiler_of(object_file):
    text = "".join(re.findall(r" {2}(\S.*)$", output_of("readelf", "-p", ".comment", object_file), re.M))
    clang, gcc = re.search(r"clang version ([\d.]+)", text), re.search(r"GCC: .* ([\d.]+)", text)
    return f"Clang {clang[1]}" if clang else f"GCC {gcc[1]}"


def functions(object_file):
    """Yields a function's name and its instructions: (address, text, address it jumps to or None)."""
    text = output_of("objdump", "-d", "--no-show-raw-insn", object_file)
    for name, lines in re.findall(r"^[0-9a-f]+ <([^>]+)>:\n((?:.+\n?)*)", text, re.M):
        code = []
        for address, instruction in re.findall(r"^ *([0-9a-f]+):\t(.*)$", lines, re.M):
            instruction = re.sub(r"\s*#.*", "", instruction).strip()
            jump = re.match(r"j\w+ +([0-9a-f]+) <", instruction)
            code.append((int(address, 16), instruction, int(jump[1], 16) if jump else None))
        yield name, code


def loops(object_file):
    for name, code in functions(object_file):
        place = {address: i for i, (address, _, _) in enumerate(code)}
        spans = [(place[to], i) for i, (_, _, to) in enumerate(code) if to in place and place[to] <= i]
        for first, last in spans:
            if not any((a, b) != (first, last) and first <= a and b <= last for a, b in spans):
                yield Loop(name, [text for _, text, _ in code[first:last + 1]])


def cycles(body, processor):
    """Of one step, operands in the first-level cache."""
    mca = os.environ.get("LLVM_MCA", "llvm-mca")
    text = "\n".join(["1:"] + [re.sub(r"^(j\w+).*", r"\1 1b", i) for i in body]) + "\n"
    try:
        out = output_of(mca, "-mtriple=x86_64", f"-mcpu={processor}", f"-iterations={STEPS}", "-instruction-info=0",
                        "-resource-pressure=0", stdin=text)
    except (OSError, subprocess.CalledProcessError) as e:
        sys.exit(f"{mca} for {processor}: {getattr(e, 'stderr', None) or e}\nSet LLVM_MCA to an llvm-mca of version 17 or later.")
    return int(re.search(r"Total Cycles:\s+(\d+)", out)[1]) / STEPS


def survey(folder):
    """{isa: {file: its loops}} of the instruction sets that run on some machine, with "peak" for the loop of peak.c."""
    found = {}
    for isa in sorted(i for i in os.listdir(folder) if i != "cuda" and not i.endswith("emulated")):
        files = [*FILES, "peak", *(BF16_FILES if isa == BF16 else ())]
        objects = {f: os.path.join(folder, isa, f + ".o") for f in files}
        found[isa] = {f: [l for l in loops(o) if isa == BF16 or "bf16" not in l.function]
                      for f, o in objects.items() if os.path.exists(o)}
    return found


def full_tile(found):
    """Of the loops of full tiles the longest: it has all that the others have."""
    return max((l for l in found if l.is_product), key=lambda l: (l.multiplies, len(l.body)))


def counted(surveys, isa, file):
    """A file's loops by each compiler, in the instruction set's own precision: avx512bf16 has avx512's fp32."""
    return [[l for l in s[isa].get(file, ()) if l.in_bf16 == (isa == BF16)] for s in surveys]


def table(folders):
    surveys = [survey(folder) for folder in folders]
    title = " / ".join(compiler_of(os.path.join(f, "avx2", "peak.o")) for f in folders)
    rows = [f"By {title}:", "",
            "| instruction set, processor | inner loop | multiply-adds | loads | spills | cycles | of peak |", "|---|---|---|---|---|---|---|"]
    for isa, processors in PROCESSORS.items():
        for processor, name in processors:
            bursts = [max(found, key=lambda l: l.multiplies) for found in counted(surveys, isa, "peak")]
            peaks = [b.multiplies / cycles(b.body, processor) for b in bursts]
            for file, what in {**FILES, **BF16_FILES}.items():
                by_compiler = counted(surveys, isa, file)
                if not all(any(l.is_product for l in found) for found in by_compiler):
                    continue
                tiles = [full_tile(found) for found in by_compiler]
                costs = [cycles(t.body, processor) for t in tiles]
                shares = [100 * t.multiplies / c / p for t, c, p in zip(tiles, costs, peaks)]
                columns = [[t.multiplies for t in tiles], [t.loads for t in tiles], [t.spills for t in tiles],
                           [f"{c:.1f}" for c in costs], [f"{s:.0f} %" for s in shares]]
                rows.append(f"| {isa}, {name} | {what} | " + " | ".join(" / ".join(map(str, c)) for c in columns) + " |")
    return "\n".join(rows) + "\n"


def check(folders):
    if platform.machine() != "x86_64":
        print("ok 1 - no spills in the inner loops of products # SKIP only x86-64's instructions are known\n1..1")
        return
    number = 0
    for folder in folders:
        for isa, files in survey(folder).items():
            compiler = compiler_of(os.path.join(folder, isa, "peak.o"))
            for file in [*FILES, *BF16_FILES]:
                if file not in files:
                    continue
                products = [l for l in files[file] if l.is_product]
                spilt = [l for l in products if l.spills]
                skip = "" if compiler.split(".")[0] in COMPILERS else " # SKIP another compiler than " + " and ".join(COMPILERS)
                number += 1
                print(f"{'ok' if skip or products and not spilt else 'not ok'} {number} - {isa}, {compiler}: no spills in the "
                      f"{len(products)} inner loops of products in {file}.o{skip}")
                for l in spilt:
                    print(f"# {l.function}: {l.multiplies} multiply-adds, {l.spills} spills")
    print(f"1..{number}")


def write(text):
    page = os.path.join(os.path.dirname(__file__), "..", "docs", "performance.md")
    with open(page, encoding="utf-8") as f:
        before, begin, rest = f.read().partition("<!-- kernel_loops.py -->\n")
    _, end, after = rest.partition("<!-- end of kernel_loops.py -->")
    if not begin or not end:
        sys.exit(f"{page}: lacks the line '<!-- kernel_loops.py -->', or after it '<!-- end of kernel_loops.py -->'")
    with open(page + ".tmp", "w", encoding="utf-8") as f:
        f.write(before + begin + text + end + after)
    os.replace(page + ".tmp", page)


def main():
    options = [a for a in sys.argv[1:] if a.startswith("--")]
    folders = [a for a in sys.argv[1:] if not a.startswith("--")]
    if not folders or len(options) > 1 or set(options) - {"--write", "--check"}:
        sys.exit(__doc__)
    if options == ["--check"]:
        check(folders)
        return
    text = table(folders)
    if not options:
        print(text, end="")
        return
    write(text)


main()
