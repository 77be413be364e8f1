#!/bin/sh
# Prints the folders that hold the headers of CUDA's runtime and libraries, for tests that compile against them: those of the
# toolkit in CUDA_HOME, else of the nvidia-* wheels in build/cuda-headers. Prints nothing where there are none.
#   cuda-headers.sh install   first puts the wheels there, by pip, where there is no toolkit
set -eu
cd "$(dirname "$0")/.."
home=${CUDA_HOME:-/usr/local/cuda}
wheels=build/cuda-headers
[ -e "$home/include/cuda_runtime_api.h" ] && echo "$home/include" && exit

if [ "${1:-}" = install ] && [ ! -e $wheels/complete ]; then
    # Headers alone are kept, and no wheel's own requirements are asked for. crt/ is in the compiler's wheel.
    if ${PYTHON:-python3} -m pip install -q --no-deps --target $wheels \
        nvidia-cuda-runtime-cu12 nvidia-cuda-nvcc-cu12 nvidia-cublas-cu12 nvidia-cudnn-cu12 nvidia-cusolver-cu12 \
        nvidia-cusparse-cu12 nvidia-nccl-cu12 >&2; then
        find $wheels -type f ! -path '*/include/*' -delete
        touch $wheels/complete
    else
        echo "cuda-headers: the wheels could not be installed; tests of the CUDA backend's host side will be skipped" >&2
    fi
fi
[ -e $wheels/complete ] && find "$PWD/$wheels/nvidia" -name include -type d | sort
exit 0
