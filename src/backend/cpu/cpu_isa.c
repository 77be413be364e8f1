/*
 * cpu_isa.c - see cpu_isa.h. Compiled for any machine: what asks for an instruction set must not use it.
 */
#include "backend/cpu/cpu_isa.h"

#include <stdlib.h>
#include <string.h>

/* CPU_ISAS(X) is X(NAME) for every name in the Makefile's ISAS. */
#define DECLARE(name) extern const cpu_kernels cpu_kernels_##name;
#define ADDRESS(name) &cpu_kernels_##name,
#define LIST(name) " " #name
CPU_ISAS(DECLARE)
static const cpu_kernels *const built[] = {CPU_ISAS(ADDRESS)};
static const char built_names[] = CPU_ISAS(LIST);

static bool has_base(void) {
    return true;
}

/* GCC and Clang ask the operating system too, whether it saves the registers. */
static bool has_avx2(void) {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return false;
#endif
}

/* All that the compiler may use, by the Makefile's flags. */
static bool has_avx512(void) {
#if defined(__x86_64__)
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

static bool has_avx512bf16(void) {
#if defined(__x86_64__)
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

const cpu_isa cpu_isas[CPU_ISAS_KNOWN] = {
    {"avx512bf16", "AVX-512 BF16", false, has_avx512bf16},
    {"avx512", "AVX-512 (F, BW, DQ, VL)", false, has_avx512},
    {"avx2", "AVX2 with FMA", false, has_avx2},
    {"portable", "nothing", false, has_base},
    {"avx512emulated", "AVX2 with FMA", true, has_avx2},
};

const cpu_isa *cpu_isa_find(const char *name) {
    for (size_t i = 0; i < CPU_ISAS_KNOWN; i++)
        if (!strcmp(cpu_isas[i].name, name)) return &cpu_isas[i];
    return NULL;
}

const cpu_kernels *cpu_isa_kernels(const cpu_isa *isa) {
    for (size_t i = 0; i < sizeof built / sizeof *built; i++)
        if (!strcmp(built[i]->isa, isa->name)) return built[i];
    return NULL;
}

bool cpu_isa_runs(const cpu_isa *isa) {
    return cpu_isa_kernels(isa) && isa->machine_has();
}

coar_status cpu_isa_forced(const cpu_isa **out) {
    const char *name = getenv("COAR_ISA");
    *out = NULL;
    if (!name) return COAR_OK;
    const cpu_isa *isa = cpu_isa_find(name);
    if (!isa)
        return status_set(COAR_ERROR_USAGE, "--isa or COAR_ISA '%s' is unknown: give one of%s", name, built_names);
    if (!cpu_isa_kernels(isa))
        return status_set(COAR_ERROR_UNSUPPORTED, "--isa or COAR_ISA %s: this build has kernels for%s only", name, built_names);
    if (!isa->machine_has())
        return status_set(COAR_ERROR_UNSUPPORTED, "--isa or COAR_ISA %s: this machine has no %s; without it the best there is is taken", name,
                          isa->needs);
    *out = isa;
    return COAR_OK;
}

coar_status cpu_isa_choose(const cpu_isa **out) {
    TRY(cpu_isa_forced(out));
    for (size_t i = 0; !*out && i < CPU_ISAS_KNOWN; i++)
        if (!cpu_isas[i].emulated && cpu_isa_runs(&cpu_isas[i])) *out = &cpu_isas[i];
    return *out ? COAR_OK : status_set(COAR_ERROR_INTERNAL, "this build has no CPU kernels");
}
