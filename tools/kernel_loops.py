#!/usr/bin/env python3
"""The inner loops of the CPU kernels' products, as the compiler left them: what they cost by llvm-mca, and that nothing spills.

    kernel_loops.py FOLDER...            prints the table of docs/performance.md
    kernel_loops.py FOLDER... --write    puts it there, between its marks
    kernel_loops.py FOLDER... --check    TAP: no inner loop of a product reads or writes the stack (tests/run.sh)

A FOLDER holds the objects of one compiler, ISA/FILE.o: build/obj/kernels, or build/clang/obj/kernels after
    make CUDA=0 CC=clang B=build/clang O=build/clang build/clang/libcoar.a
Reads them with objdump; the table needs llvm-mca ($LLVM_MCA; Zen 4 and Sapphire Rapids from version 17 on). Python's standard
library alone.
"""
import os
import re
import subprocess
import sys

FILES = ("conv", "winograd", "attention", "peak")
# The processors whose cycles are counted for an instruction set, as llvm-mca calls them.
PROCESSORS = {"avx2": [("znver3", "Zen 3")], "avx512": [("znver4", "Zen 4"), ("sapphirerapids", "Sapphire Rapids")]}
STEPS = 1000  # simulated, of which the first few fill the pipeline

FUSED = re.compile(r"vfmadd\d+ps\b")
PRODUCT, SUM = re.compile(r"v?mulps\b"), re.compile(r"v?addps\b")
OTHER = re.compile(r"v?(sub|div|sqrt|max|min|cmp\w*)ps\b")
STACK = re.compile(r"-?(0x[0-9a-f]+)?\(%rsp|-0x[0-9a-f]+\(%rbp\)")


class Loop:
    """An innermost loop: the text of its instructions, the last of them the jump back."""

    def __init__(self, function, body):
        self.function, self.body = function, body
        self.fused = sum(bool(FUSED.match(i)) for i in body)
        products, sums = (sum(bool(p.match(i)) for i in body) for p in (PRODUCT, SUM))
        unfused = products if products == sums else 0  # portable code
        self.multiplies = self.fused or unfused
        plain = not any(OTHER.match(i) for i in body) and (not self.fused or not products + sums)
        self.is_product = self.multiplies >= 2 and plain
        self.stack = sum(bool(STACK.search(i)) and not i.startswith("lea") for i in body)
        self.loads = sum(bool(re.search(r"\(%\w+.*\).*,", i)) for i in body if not i.startswith("lea"))


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
    text = "\n".join(["1:"] + [re.sub(r"^(j\w+).*", r"\1 1b", i) for i in body]) + "\n"
    out = output_of(os.environ.get("LLVM_MCA", "llvm-mca"), "-mtriple=x86_64", f"-mcpu={processor}", f"-iterations={STEPS}",
                    "-instruction-info=0", "-resource-pressure=0", stdin=text)
    return int(re.search(r"Total Cycles:\s+(\d+)", out)[1]) / STEPS


def what_for(object_name, loop):
    """The product that a full tile's loop belongs to."""
    known = {"conv": "direct convolution, linear layers", "winograd": "Winograd's products"}
    return known.get(object_name, "attention")


def survey(folder):
    """{isa: {object: its loops}} of a folder."""
    found = {}
    for isa in sorted(os.listdir(folder)):
        objects = {f: os.path.join(folder, isa, f + ".o") for f in FILES}
        if all(os.path.exists(o) for o in objects.values()):
            found[isa] = {f: list(loops(o)) for f, o in objects.items()}
    return found


def table(folders):
    rows = ["| ISA | processor | compiler | inner loop of | multiply-adds | loads | stack | cycles | multiply-adds a cycle | of peak |",
            "|---|---|---|---|---|---|---|---|---|---|"]
    for isa in PROCESSORS:
        for processor, title in PROCESSORS[isa]:
            for folder in folders:
                found = survey(folder).get(isa)
                if not found:
                    continue
                compiler = compiler_of(os.path.join(folder, isa, "conv.o"))
                burst = max(found["peak"], key=lambda l: l.fused)
                peak = burst.fused / cycles(burst.body, processor)
                for name in FILES[:-1]:
                    products = [l for l in found[name] if l.is_product]
                    full = max(l.multiplies for l in products)
                    distinct = {}
                    for l in products:
                        if l.multiplies == full:
                            distinct.setdefault((l.loads, l.stack, cycles(l.body, processor)), l)
                    for (loads, stack, cost), l in distinct.items():
                        rate = l.multiplies / cost
                        rows.append(f"| {isa} | {title} | {compiler} | {what_for(name, l)} | {full} | {loads} | {stack} | "
                                    f"{cost:.1f} | {rate:.2f} | {100 * rate / peak:.0f} % |")
    return "\n".join(rows) + "\n"


def check(folders):
    number = 0
    for folder in folders:
        for isa, objects in survey(folder).items():
            if isa.endswith("emulated"):
                continue
            compiler = compiler_of(os.path.join(folder, isa, "conv.o"))
            for name in FILES[:-1]:
                products = [l for l in objects[name] if l.is_product]
                spilt = [l for l in products if l.stack]
                number += 1
                print(f"{'not ok' if spilt or not products else 'ok'} {number} - {isa}, {compiler}: {len(products)} inner loops of "
                      f"products in {name}.o leave the stack alone")
                for l in spilt:
                    print(f"# {l.function}: {l.multiplies} multiply-adds, {l.stack} accesses to the stack")
                if not products:
                    print("# no loop of a product was found")
    print(f"1..{number}")


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
    page = os.path.join(os.path.dirname(__file__), "..", "docs", "performance.md")
    with open(page, encoding="utf-8") as f:
        old = f.read()
    new = re.sub(r"(<!-- kernel_loops.py -->\n).*(<!-- end of kernel_loops.py -->)", lambda m: m[1] + text + m[2], old, flags=re.S)
    with open(page, "w", encoding="utf-8") as f:
        f.write(new)


main()
