/*
 * table.c - the kernels of one instruction set, gathered.
 */
#include "kernels/cpu/simd.h"

#define KERNEL_TEXT2(name) #name
#define KERNEL_TEXT(name) KERNEL_TEXT2(name)

const cpu_kernels KERNEL(cpu_kernels) = {
    .isa = KERNEL_TEXT(KERNEL_ISA),
    .tile_rows = TILE_ROWS,
    .conv_pack = KERNEL(cpu_conv_pack),
    .winograd_pack = KERNEL(cpu_winograd_pack),
    .conv = KERNEL(cpu_conv),
    .winograd = KERNEL(cpu_winograd),
    .winograd_scratch = KERNEL(cpu_winograd_scratch),
    .conv_bf16_pack = KERNEL(cpu_conv_bf16_pack),
    .winograd_bf16_pack = KERNEL(cpu_winograd_bf16_pack),
    .conv_bf16 = KERNEL(cpu_conv_bf16),
    .winograd_bf16 = KERNEL(cpu_winograd_bf16),
    .conv_bf16_scratch = KERNEL(cpu_conv_bf16_scratch),
    .winograd_bf16_scratch = KERNEL(cpu_winograd_bf16_scratch),
    .maxpool = KERNEL(cpu_maxpool),
    .avgpool = KERNEL(cpu_avgpool),
    .layernorm = KERNEL(cpu_layernorm),
    .attention = KERNEL(cpu_attention),
    .attention_scratch = KERNEL(cpu_attention_scratch),
    .relu = KERNEL(cpu_relu),
    .gelu_erf = KERNEL(cpu_gelu_erf),
    .gelu_tanh = KERNEL(cpu_gelu_tanh),
    .quickgelu = KERNEL(cpu_quickgelu),
    .normalise = KERNEL(cpu_normalise),
    .scale_channels = KERNEL(cpu_scale_channels),
    .embed = KERNEL(cpu_embed),
    .conv_reverse_pack = KERNEL(cpu_conv_reverse_pack),
    .winograd_reverse_pack = KERNEL(cpu_winograd_reverse_pack),
    .conv_reverse = KERNEL(cpu_conv_reverse),
    .winograd_reverse = KERNEL(cpu_winograd_reverse),
    .epilogue_reverse = KERNEL(cpu_epilogue_reverse),
    .maxpool_reverse = KERNEL(cpu_maxpool_reverse),
    .avgpool_reverse = KERNEL(cpu_avgpool_reverse),
    .layernorm_reverse = KERNEL(cpu_layernorm_reverse),
    .attention_reverse = KERNEL(cpu_attention_reverse),
    .attention_reverse_scratch = KERNEL(cpu_attention_reverse_scratch),
    .gelu_erf_reverse = KERNEL(cpu_gelu_erf_reverse),
    .gelu_tanh_reverse = KERNEL(cpu_gelu_tanh_reverse),
    .quickgelu_reverse = KERNEL(cpu_quickgelu_reverse),
    .subsample_reverse = KERNEL(cpu_subsample_reverse),
    .embed_reverse = KERNEL(cpu_embed_reverse),
    .select_reverse = KERNEL(cpu_select_reverse),
    .peak = KERNEL(cpu_peak),
    .peak_bf16 = KERNEL(cpu_peak_bf16),
    .triad = KERNEL(cpu_triad),
};
