/* conv_tf32.cu - the tf32 forms of conv_mma.cuh. In memory tf32 is fp32, so tiles are half as deep as in 16-bit
 * types. */
#include "kernels/cuda/conv_mma.cuh"

static const conv_form forms[] = {
    conv_mma_form<conv_mma_tile<tf32, 64, 64, 64, 4, 2, 2>>("64x64x16 s4 w4"),
    conv_mma_form<conv_mma_tile<tf32, 128, 32, 64, 4, 4, 1>>("128x32x16 s4 w4"),
    conv_mma_form<conv_mma_tile<tf32, 128, 64, 64, 4, 2, 2>>("128x64x16 s4 w4"),
    conv_mma_form<conv_mma_tile<tf32, 128, 128, 64, 4, 2, 4>>("128x128x16 s4 w8"),
    conv_mma_form<conv_mma_tile<tf32, 128, 128, 128, 3, 2, 4>>("128x128x32 s3 w8"),
    {},
};

const conv_form *conv_forms_tf32() {
    return forms;
}
