/*
 * cpu_isa.c - the instruction sets of the CPU kernels: which are tested here, which one is chosen, and that an
 * emulation has the numbers of what it emulates, where the machine has both.
 */
#include "backend/cpu/cpu_isa.h"

#include <stdlib.h>
#include <string.h>

#include "lanes.h"

static void test_presence(void) {
    for (size_t i = 0; i < CPU_ISAS_KNOWN; i++) {
        const cpu_isa *isa = &cpu_isas[i];
        const cpu_kernels *kernels = cpu_isa_kernels(isa);
        test_begin("%s: its kernels", isa->name);
        CHECK(cpu_isa_find(isa->name) == isa);
        if (!kernels)
            test_skip("this build has none (sanitizers leave out emulations, other processors what is not theirs)");
        else if (!isa->machine_has())
            test_skip("this machine has no %s", isa->needs);
        else
            CHECK_TEXT(kernels->isa, isa->name);
    }
}

/* COAR_ISA=NAME: what runs is taken, of the rest it is said why not. */
static void test_choice(void) {
    const cpu_isa *isa;
    test_begin("without COAR_ISA: the first that runs, no emulation");
    unsetenv("COAR_ISA");
    CHECK_OK(cpu_isa_forced(&isa));
    CHECK(!isa);
    CHECK_OK(cpu_isa_choose(&isa));
    CHECK(isa && !isa->emulated && cpu_isa_runs(isa));
    for (const cpu_isa *better = cpu_isas; better < isa; better++) CHECK(better->emulated || !cpu_isa_runs(better));
    for (size_t i = 0; i < CPU_ISAS_KNOWN; i++) {
        test_begin("COAR_ISA=%s", cpu_isas[i].name);
        setenv("COAR_ISA", cpu_isas[i].name, 1);
        if (cpu_isa_runs(&cpu_isas[i])) {
            CHECK_OK(cpu_isa_choose(&isa));
            CHECK(isa == &cpu_isas[i]);
        } else {
            CHECK_ERROR(cpu_isa_choose(&isa), COAR_ERROR_UNSUPPORTED, cpu_isas[i].name);
            CHECK(!isa);
        }
        status_clear();
    }
    test_begin("COAR_ISA=avx");
    setenv("COAR_ISA", "avx", 1); /* the beginning of a name */
    CHECK_ERROR(cpu_isa_choose(&isa), COAR_ERROR_USAGE, "portable");
    status_clear();
    unsetenv("COAR_ISA");
}

int main(void) {
    test_presence();
    test_choice();
    return test_end();
}
