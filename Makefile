# coar - component attributions. `make demo` and `make test` do all the set-up; see README.md.
#
#   make [all]       build/coar, build/libcoar.a, build/libcoar.so
#   make demo        pack, ablate, fit, evaluate, report on the data in data/
#   make test        everything: units, goldens, command line, kills, sanitizers, fuzz
#   make test-quick  units and goldens
#   make bench       throughput; PEERS=1 also installs and times others beside it, into docs/performance.md; BENCH= more options
#   make install     PREFIX (/usr/local) and DESTDIR are honoured
#   make cuda-all    as `all`, with kernels for every GPU architecture (tools/cuda.mk: CUDA=0/1, GPU_ARCHS)
#   MPI=0/1          without or with MPI (tools/mpi.mk; where it is found)

ifeq ($(origin CC),default) # make's own is cc, so that ?= would never act
CC       := gcc
endif
CFLAGS   ?= -O3 -g
PREFIX   ?= /usr/local
CONFIG   ?= release
V        ?= 0
COAR_SHARED ?= ../shared
PYTHON   ?= $(shell tools/find-python.sh)
# ---------------------------------------------------------------------------------------- end of settings

export COAR_SHARED

VERSION  := $(shell sed -n 's/.*define COAR_VERSION_[A-Z]* //p' include/coar.h | paste -sd.)
O        := build$(if $(filter simt,$(CUDA)),/simt$(if $(SIMT_HEADERS),-$(SIMT_HEADERS)))$(if $(filter-out release,$(CONFIG)),/$(CONFIG))
# What knows nothing of CUDA is compiled once, whatever CUDA= is; `check` watches kernels alone.
B        := build$(if $(filter-out release check,$(CONFIG)),/$(CONFIG))
SEE_CUDA := src/backend/backend.c src/backend/plan.c $(wildcard src/backend/cuda/*.c)
objects   = $(foreach s,$(1),$(if $(filter $(SEE_CUDA),$(s)),$(O),$(B))/obj/$(s:.c=.o))
ARCH     := $(shell uname -m)
.DEFAULT_GOAL := all
say       = $(if $(filter 0,$(V)),@printf '  %-4s %s\n' $(1) $(2);,)
comma    := ,
include tools/cuda.mk
include tools/mpi.mk

PACKAGES := hdf5 openblas lapacke libjpeg libpng libcjson libcrypto libpcre2-8
WARNINGS := -Wall -Wextra -Werror -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wno-missing-field-initializers
ifeq ($(filter $(CONFIG),release asan tsan $(if $(filter simt,$(CUDA)),check)),)
$(error CONFIG=$(CONFIG): must be release, asan or tsan; with CUDA=simt also check)
endif
SANITIZE_release :=
SANITIZE_asan    := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1 -g1
SANITIZE_tsan    := -fsanitize=thread -O1 -g1
SANITIZE := $(SANITIZE_$(CONFIG))
ifeq ($(CUDA),simt)
include tests/simt/simt.mk
endif
# pkg-config runs only once the packages are there (see tools/setup.sh); -isystem keeps -Werror to our own code.
DEPS_CFLAGS = $(eval DEPS_CFLAGS := $$(patsubst -I%,-isystem %,$$(shell pkg-config --cflags $(PACKAGES))))$(DEPS_CFLAGS)
DEPS_LIBS   = $(eval DEPS_LIBS := $$(shell pkg-config --libs $(PACKAGES)))$(DEPS_LIBS)
BASE     := -std=c17 -D_GNU_SOURCE -DCOAR_BUILD -fPIC -fvisibility=hidden -pthread -MMD -MP $(WARNINGS) -Iinclude -Isrc -I.
COMPILE   = $(CC) $(BASE) $(CFLAGS) $(SANITIZE) $(DEPS_CFLAGS)
LINK      = $(CC) -pthread $(CFLAGS) $(SANITIZE) $(LDFLAGS)
LIBS      = $(DEPS_LIBS) $(MPI_LIBS) $(CUDA_LIBS) -lm

# Kernels are compiled once per instruction set; the choice is made at run time (src/backend/cpu/cpu_isa.c). NAMEemulated
# has NAME's numbers on machines without it, for tests; sanitizers would only make it slower.
ISAS := portable $(if $(filter x86_64,$(ARCH)),avx2 avx512 avx512bf16 $(if $(filter release,$(CONFIG)),avx512emulated))
# Products and sums are fused where the source says so and nowhere else, so that compilers agree on the bits.
ISA_FLAGS_portable       := -ffp-contract=off
ISA_FLAGS_avx2           := -ffp-contract=off -mavx2 -mfma
ISA_FLAGS_avx512         := -ffp-contract=off -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl
ISA_FLAGS_avx512bf16     := $(ISA_FLAGS_avx512) -mavx512bf16
ISA_FLAGS_avx512emulated := -ffp-contract=off -mavx2 -mfma -Wno-psabi
KERNELS  := $(wildcard kernels/cpu/*.c)
SOURCES  := $(filter-out src/cli/% $(if $(CUDA_OBJECTS),,src/backend/cuda/%) $(if $(MPI_LIBS),,src/comm/mpi.c),$(wildcard src/*/*.c src/*/*/*.c))
OBJECTS  := $(call objects,$(SOURCES)) $(foreach i,$(ISAS),$(KERNELS:kernels/cpu/%.c=$(B)/obj/kernels/$(i)/%.o)) $(CUDA_OBJECTS)
CLI      := $(call objects,$(wildcard src/cli/*.c))
UNITS    := $(patsubst tests/unit/%.c,$(O)/tests/%,$(wildcard tests/unit/*.c))
FUZZERS  := $(patsubst tests/fuzz/%.c,$(O)/fuzz/%,$(wildcard tests/fuzz/*.c))
EXAMPLES := $(patsubst examples/%.c,$(O)/examples/%,$(wildcard examples/*.c))

.PHONY: all demo test test-quick bench install clean setup binaries roofline units fuzzers format

all: setup
	@$(MAKE) --no-print-directory binaries

binaries: $(O)/coar $(O)/libcoar.so $(EXAMPLES)
units: $(UNITS)
fuzzers: $(FUZZERS)

# `all` calls make again, which must not meet this one at work on the same files.
ifneq ($(and $(word 2,$(MAKECMDGOALS)),$(filter all demo test test-quick bench install,$(MAKECMDGOALS))),)
.NOTPARALLEL:
endif

# Installs what is missing when run as root; otherwise prints the command that would, and fails.
setup:
	@CUDA=$(CUDA) MPI=$(MPI) tools/setup.sh

$(O)/libcoar.a: $(OBJECTS)
	@rm -f $@
	$(call say,AR,$@)$(AR) rcs $@ $^

$(O)/libcoar.so: $(OBJECTS)
	$(call say,LINK,$@)$(LINK) -shared -Wl,--exclude-libs,ALL -Wl,-soname,libcoar.so.$(firstword $(subst ., ,$(VERSION))) -o $@ $^ $(LIBS)

$(O)/coar: $(CLI) $(O)/libcoar.a
	$(call say,LINK,$@)$(LINK) -o $@ $^ $(LIBS)

# Its time changes when its contents do: other flags than last time compile everything again.
$(B)/obj/flags: always
	@mkdir -p $(@D); echo '$(CC) $(CFLAGS) $(SANITIZE)' | cmp -s - $@ || echo '$(CC) $(CFLAGS) $(SANITIZE)' >$@

$(B)/obj/%.o: %.c $(B)/obj/flags
	@mkdir -p $(@D)
	$(call say,CC,$@)$(COMPILE) -c $< -o $@

$(SEE_CUDA:%.c=$(O)/obj/%.o): $(O)/obj/%.o: %.c $(O)/obj/cuda $(B)/obj/flags
	@mkdir -p $(@D)
	$(call say,CC,$@)$(COMPILE) $(CUDA_CFLAGS) -c $< -o $@

define kernel_rule
$(B)/obj/kernels/$(1)/%.o: kernels/cpu/%.c $(B)/obj/flags
	@mkdir -p $$(@D)
	$$(call say,CC,$$@)$$(COMPILE) $(ISA_FLAGS_$(1)) -DKERNEL_ISA=$(1) -c $$< -o $$@
endef
$(foreach i,$(ISAS),$(eval $(call kernel_rule,$(i))))
$(B)/obj/src/backend/cpu/cpu_isa.o: BASE += -D'CPU_ISAS(X)=$(foreach i,$(ISAS),X($(i)))'
$(B)/obj/src/backend/cpu/cpu_isa.o: Makefile

# What test programs share; the linker takes what each asks for.
$(B)/libtests.a: $(patsubst %.c,$(B)/obj/%.o,$(wildcard tests/*.c))
	@rm -f $@
	$(call say,AR,$@)$(AR) rcs $@ $^

# A program of one source, and its list of headers beside it.
program   = $(call say,CC,$@)$(COMPILE) $(1) -MF $@.d -MT $@ $< $(filter %.o %.a,$^) -o $@ $(LDFLAGS) $(LIBS)

$(O)/tests/%: tests/unit/%.c $(B)/libtests.a $(O)/libcoar.a
	@mkdir -p $(@D)
	$(call program,-Itests)

$(O)/fuzz/%: tests/fuzz/%.c $(B)/libtests.a $(O)/libcoar.a
	@mkdir -p $(@D)
	$(call program,-Itests)

$(O)/examples/%: examples/%.c $(O)/libcoar.a
	@mkdir -p $(@D)
	$(call say,CC,$@)$(CC) -std=c17 -MMD -MP -Wall -Wextra -Werror $(CFLAGS) $(SANITIZE) -pthread -Iinclude $(filter %.c %.a,$^) -o $@ $(LDFLAGS) $(LIBS)

# Tables of docs/gpu.md.
roofline: $(O)/tools/roofline
$(O)/tools/%: tools/%.c $(O)/libcoar.a
	@mkdir -p $(@D)
	$(call program)

demo: all
	@tools/demo.sh $(O)

test: all
	@PYTHON=$(PYTHON) tests/run.sh full

test-quick: all
	@PYTHON=$(PYTHON) tests/run.sh quick

bench: all
	@python3 bench/throughput.py $(O) --json $(O)/bench.json $(if $(filter 1,$(PEERS)),--peers --write docs/performance.md) $(BENCH)

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include
	install -m 755 $(O)/coar $(DESTDIR)$(PREFIX)/bin/
	install -m 644 $(O)/libcoar.a $(DESTDIR)$(PREFIX)/lib/
	install -m 755 $(O)/libcoar.so $(DESTDIR)$(PREFIX)/lib/libcoar.so.$(VERSION)
	ln -sf libcoar.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libcoar.so.$(firstword $(subst ., ,$(VERSION)))
	ln -sf libcoar.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libcoar.so
	install -m 644 include/coar.h $(DESTDIR)$(PREFIX)/include/
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@PACKAGES@|$(PACKAGES)|' \
	    -e 's|@CUDA_LIBS@|$(MPI_LIBS) $(CUDA_LIBS)|' tools/coar.pc.in \
	    > $(DESTDIR)$(PREFIX)/lib/pkgconfig/coar.pc

format:
	clang-format -i $$(git ls-files '*.c' '*.h' '*.cc' '*.cu' '*.cuh')

clean:
	rm -rf build

-include $(shell find $(sort $(O) $(B)) -name '*.d' 2>/dev/null)
