# simt.mk - CUDA=simt: kernels compiled as C++ against tests/simt, which executes them where there is no GPU, under the
# whole program or under tests of their own; part of the Makefile.
#
#   CONFIG=check       every access of a kernel to memory is checked
#   SIMT_HEADERS=own   the shim's own CUDA headers even where a toolkit is: kernel tests alone

CXX_WARNINGS := -Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-missing-field-initializers
# This machine runs what it compiles here. Without contraction the wider registers change no bit.
SIMT_NATIVE  := $(if $(shell grep -m 1 -w avx2 /proc/cpuinfo 2>/dev/null | grep -w fma),-mavx2 -mfma)
# Sibling calls would hide the line that a report names.
SIMT_BASE    := -std=c++17 -fPIC -fvisibility=hidden -pthread -MMD -MP $(CXX_WARNINGS) -ffp-contract=off \
                -fno-optimize-sibling-calls -Itests/simt -I. -O2 -g1 $(SIMT_NATIVE)
TOOLKIT      := $(if $(filter own,$(SIMT_HEADERS)),,$(shell CUDA_HOME=$(CUDA_HOME) tools/cuda-headers.sh))
CUDA_HEADERS := $(patsubst %,-isystem %,$(or $(TOOLKIT),tests/simt/include))
# The thread sanitizer's calls around memory, not those at functions' ends: fibers would confuse its record of the call
# stack. `check` links no sanitizer: tests/simt/check.cc answers the calls.
WATCHED      := -fsanitize=thread -O1 $(if $(findstring clang,$(CXX)),-mllvm -tsan-instrument-func-entry-exit=0,--param=tsan-instrument-func-entry-exit=0)
ifeq ($(CONFIG)$(findstring clang,$(CXX)),checkclang)
$(error CONFIG=check: CXX must be g++; clang hides copies of structs from the checker)
endif
# What the address sanitizer finds when it happens need not be compiled in a second time, which would double the build.
SIMT_KERNEL_asan  := $(SANITIZE_asan) -fno-sanitize=null,object-size,pointer-overflow \
                     $(if $(findstring clang,$(CXX)),,--param=asan-instrumentation-with-call-threshold=50)
SIMT_KERNEL_tsan  := $(WATCHED)
SIMT_KERNEL_check := $(WATCHED) -fsanitize=alignment
SIMT_SHIM_asan    := $(SANITIZE_asan)
SIMT_SHIM_check   := -DSIMT_CHECK
# Of the shim's own tests: kernels that are right, and one for each class of bug.
SIMT_SAMPLES := $(patsubst %.cu,$(O)/obj/%.o,$(wildcard tests/simt/good/*.cu tests/simt/broken/*.cu))
SIMT_KERNELS := $(patsubst %.cu,$(O)/obj/%.o,$(wildcard kernels/cuda/*.cu))
SIMT_OBJECTS := $(patsubst %.cc,$(O)/obj/%.o,$(wildcard tests/simt/*.cc))
# What kernel tests may compare with: the meaning of the ops, and what that needs.
REFERENCE    := $(call objects,$(filter-out src/core/h5% src/core/format.c,$(wildcard src/core/*.c src/graph/*.c src/backend/reference/*.c src/backend/precision.c) src/fit/gram.c src/fit/cross.c))

$(O)/obj/%.o: %.cu $(O)/obj/cuda
	@mkdir -p $(@D)
	$(call say,CXX,$@)$(CXX) $(SIMT_BASE) $(SIMT_KERNEL_$(CONFIG)) $(CUDA_HEADERS) -x c++ -c $< -o $@

$(O)/obj/tests/simt/%.o: tests/simt/%.cc
	@mkdir -p $(@D)
	$(call say,CXX,$@)$(CXX) $(SIMT_BASE) $(SIMT_SHIM_$(CONFIG)) $(CUDA_HEADERS) -c $< -o $@

# Its loops want vectors, and work on copies of registers alone: nothing for a sanitizer.
$(O)/obj/tests/simt/mma.o: SIMT_BASE += -O3
$(O)/obj/tests/simt/mma.o: SIMT_SHIM_asan :=

$(O)/obj/tests/%.o: tests/%.c
	@mkdir -p $(@D)
	$(call say,CC,$@)$(COMPILE) -Itests $(CUDA_HEADERS) -c $< -o $@

.SECONDARY: # objects that only a chain of rules names are kept
$(O)/libkernels.a: $(SIMT_KERNELS)
$(O)/libsimt.a: $(SIMT_OBJECTS)
$(O)/libreference.a: $(REFERENCE)
$(O)/libkernels.a $(O)/libsimt.a $(O)/libreference.a:
	@mkdir -p $(@D)
	@rm -f $@
	$(call say,AR,$@)$(AR) rcs $@ $^

$(O)/tests/kernels/%: $(O)/obj/tests/kernels/%.o $(O)/obj/tests/kernels/kernel_test.o $(O)/obj/tests/kernels/kernel_conv.o \
                      $(B)/libtests.a $(O)/libkernels.a $(O)/libreference.a $(O)/libsimt.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)$(CXX) -pthread $(SANITIZE) -o $@ $(filter %.o %.a,$^) $(LDFLAGS) -ldl $(LIBS)

$(O)/tests/simt/%: $(O)/obj/tests/simt/%.o $(SIMT_SAMPLES) $(O)/obj/tests/kernels/kernel_test.o $(B)/libtests.a \
                   $(O)/libreference.a $(O)/libsimt.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)$(CXX) -pthread $(SANITIZE) -o $@ $(filter %.o %.a,$^) $(LDFLAGS) -ldl $(LIBS)

# The whole program with the CUDA backend: libcoar.a over the shim, and stand-ins for CUDA's libraries, which are
# compiled against the real headers.
ifneq ($(TOOLKIT),)
STAND_INS    := $(patsubst %.c,$(O)/obj/%.o,$(wildcard tests/stand_ins/*.c))
CUDA_CFLAGS  := -DCOAR_CUDA -DCOAR_LIBRARIES_LINKED $(NCCL_CFLAGS) $(CUDA_HEADERS)
CUDA_OBJECTS := $(SIMT_KERNELS) $(SIMT_OBJECTS) $(STAND_INS)
CUDA_LIBS    := -lstdc++ -ldl
HOST_TESTS   := $(patsubst tests/cuda/%.c,$(O)/tests/%,$(wildcard tests/cuda/*.c))
include tests/plans/plans.mk

$(STAND_INS): CFLAGS += -Wno-deprecated-declarations # the real headers deprecate what the real libraries still have

$(O)/tests/%: tests/cuda/%.c $(B)/libtests.a $(O)/libcoar.a
	@mkdir -p $(@D)
	$(call program,-Itests $(CUDA_CFLAGS))
endif

KERNEL_TESTS := $(patsubst tests/kernels/%.c,$(O)/tests/kernels/%,$(filter-out %/kernel_test.c %/kernel_conv.c,$(wildcard tests/kernels/*.c)))
SIMT_TESTS   := $(patsubst tests/%.c,$(O)/tests/%,$(wildcard tests/simt/*.c))
.PHONY: kernel-tests host-tests
kernel-tests: $(KERNEL_TESTS) $(SIMT_TESTS)
host-tests: $(HOST_TESTS)
