# cuda.mk - the CUDA backend in the build; part of the Makefile.
#
#   CUDA=auto  1 where nvcc is found, else 0 (the default)
#   CUDA=0     without it                 CUDA=1  with it: an error where there is no toolkit
#   CUDA=simt  with it, but kernels run on the CPU (tests/simt/), libraries are stand-ins: for tests
#
#   NCCL=auto  sums between the GPUs of several ranks by NCCL where its header (2.14 or later) is found in the toolkit or among
#              the system's; the library itself is opened when it is first used. It takes MPI for ranks to find each other
#   NCCL=0     without it                 NCCL=1  with it: an error where there is no header
#
#   GPU_ARCHS="80 90"  machine code for these architectures, and PTX of the last for newer ones; `all`: those of $(ARCHS_ALL)
#                      that this nvcc knows. Default: what build/ was made for last, else this machine's GPUs, else 80.
#   NVCCFLAGS          -O3; NVCC_CCBIN in the environment names another host compiler

CUDA      ?= auto
NCCL      ?= auto
CUDA_HOME ?= $(or $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v nvcc 2>/dev/null))),/usr/local/cuda)
NVCCFLAGS ?= -O3
NVCC      := $(wildcard $(CUDA_HOME)/bin/nvcc)
CUDA_OLDEST := 12.4
ARCHS_ALL := 80 86 89 90 100 120

ifeq ($(CUDA),auto)
override CUDA := $(if $(NVCC),1,0)
endif
ifeq ($(filter $(CUDA),0 1 simt),)
$(error CUDA=$(CUDA): must be auto, 0, 1 or simt)
endif
ifeq ($(CUDA)$(NVCC),1)
$(error CUDA=1: there is no nvcc on PATH or in CUDA_HOME ($(CUDA_HOME)): install the CUDA toolkit, $(CUDA_OLDEST) or later, or build with CUDA=0)
endif

ifeq ($(filter $(NCCL),0 1 auto),)
$(error NCCL=$(NCCL): must be auto, 0 or 1)
endif
ifeq ($(NCCL)$(CUDA),10)
$(error NCCL=1: NCCL needs the CUDA backend: build with CUDA=1, or with NCCL=0)
endif
NCCL_CFLAGS := $(if $(filter 0,$(NCCL)),-DCOAR_NO_NCCL)

ifeq ($(CUDA),1)
CUDA_VERSION := $(shell $(NVCC) --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
ifneq ($(shell printf '%s\n' $(CUDA_OLDEST) $(CUDA_VERSION) | sort -V | head -n 1),$(CUDA_OLDEST))
$(error CUDA=1: $(NVCC) is of CUDA $(CUDA_VERSION): $(CUDA_OLDEST) or later is needed, or build with CUDA=0)
endif

ifneq ($(words $(wildcard $(CUDA_HOME)/include/cublasLt.h $(CUDA_HOME)/include/cusolverDn.h)),2)
$(error CUDA=1: the headers of cuBLAS and cuSOLVER are not in $(CUDA_HOME)/include: install them (libcublas-dev and libcusolver-dev of this toolkit), or build with CUDA=0)
endif

# Older GPUs cannot run the kernels, which use the feature set of sm_80: they are as good as none.
ARCHS_KNOWN := $(shell $(NVCC) --list-gpu-code | sed -n 's/^sm_//p' | awk '$$1 + 0 >= 80')
ARCHS_HERE   = $(filter $(ARCHS_KNOWN),$(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | sort -nu))
GPU_ARCHS   ?= $(or $(shell cat $(O)/obj/gpu-archs 2>/dev/null),$(ARCHS_HERE),80)
ARCHS       := $(if $(filter all,$(GPU_ARCHS)),$(filter $(ARCHS_KNOWN),$(ARCHS_ALL)),$(GPU_ARCHS))
ifneq ($(filter-out $(ARCHS_KNOWN),$(ARCHS)),)
$(error GPU_ARCHS: no kernels for $(filter-out $(ARCHS_KNOWN),$(ARCHS)): this nvcc compiles them for $(ARCHS_KNOWN))
endif

# Spilled registers are warnings of ptxas, and these errors, as all others. What ptxas says of each kernel is kept beside the
# object (tools/ptxas_table.py).
NVCC_WARNINGS := -Werror all-warnings -Xcompiler -Wall,-Wextra,-Werror -Xptxas -v,-warn-spills,-Werror
NVCC_BASE     := -std=c++17 -lineinfo -Xcompiler -fPIC,-fvisibility=hidden $(NVCC_WARNINGS) -I.
NVCC_CODE     := $(foreach a,$(ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
                 -gencode arch=compute_$(lastword $(ARCHS)),code=compute_$(lastword $(ARCHS))

CUDA_CFLAGS  := -DCOAR_CUDA $(NCCL_CFLAGS) -isystem $(CUDA_HOME)/include
ifeq ($(NCCL)$(shell echo '\#include <nccl.h>' | $(CC) -E -isystem $(CUDA_HOME)/include - >/dev/null 2>&1 || echo none),1none)
$(error NCCL=1: there is no nccl.h in $(CUDA_HOME)/include or among the system's headers: install it (libnccl-dev), or build with NCCL=0)
endif
# The static runtime: the program then starts on machines without a toolkit, and without a GPU. All other libraries are
# opened when they are first used (src/backend/cuda/cuda_libraries.h).
CUDA_LIBDIR  := $(firstword $(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/lib))
CUDA_LIBS    := -L$(CUDA_LIBDIR) -lcudart_static -ldl -lrt -lstdc++
CUDA_KERNELS := $(wildcard kernels/cuda/*.cu)
CUDA_OBJECTS := $(CUDA_KERNELS:%.cu=$(O)/obj/%.o)

$(O)/obj/kernels/cuda/%.o: kernels/cuda/%.cu $(O)/obj/gpu-archs
	@mkdir -p $(@D)
	$(call say,NVCC,$@)$(NVCC) $(NVCC_BASE) $(NVCCFLAGS) $(NVCC_CODE) -MMD -MP -MF $(@:.o=.d) -c $< -o $@ \
	    >$(@:.o=.ptxas) 2>&1 || { cat $(@:.o=.ptxas) >&2; exit 1; }

# Its time changes when its contents do.
$(O)/obj/gpu-archs: always
	@mkdir -p $(@D); echo '$(ARCHS)' | cmp -s - $@ || echo '$(ARCHS)' >$@
endif

# Some objects know whether the backend is there, and by which headers: another CUDA= or toolkit than last time compiles
# them again.
SEEN_CUDA = $(CUDA) $(if $(filter simt,$(CUDA)),$(CXX)) $(CUDA_CFLAGS)
$(O)/obj/cuda: always
	@mkdir -p $(@D); echo '$(SEEN_CUDA)' | cmp -s - $@ || echo '$(SEEN_CUDA)' >$@

.PHONY: always cuda-all
cuda-all: setup
	@$(MAKE) --no-print-directory CUDA=1 GPU_ARCHS=all binaries
