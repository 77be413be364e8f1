/* conv_bf16.cu - the bf16 forms of conv_mma.cuh, in a file of their own so that types are compiled side by side. */
#include "kernels/cuda/conv_mma.cuh"

const conv_form *conv_forms_bf16() {
    return conv_forms_16bit<bf16>;
}
