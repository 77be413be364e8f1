# plans.mk - CUDA=simt: the program that asks the real cuDNN for plans on described devices, where the library is
# installed; part of tests/simt/simt.mk. `make CUDA=simt plan-tests` builds it, build/simt/plans/cudnn_plans runs it.

comma := ,
# Beside the headers' folders: the toolkit's lib64, a wheel's lib.
PLAN_LIBRARIES := $(foreach d,$(TOOLKIT),$(wildcard $(d:%/include=%/lib64) $(d:%/include=%/lib)))
PLAN_RPATH     := -Wl,--disable-new-dtags $(addprefix -Wl$(comma)-rpath$(comma),$(PLAN_LIBRARIES))

$(O)/plans/libcuda.so.1: tests/stand_ins/libcuda/libcuda.c
	@mkdir -p $(@D)
	$(call say,CC,$@)$(CC) -std=c17 -D_GNU_SOURCE $(WARNINGS) $(CUDA_HEADERS) -O2 -fPIC -shared \
	    -Wl,-soname,libcuda.so.1 $< -o $@

# The library's functions from the library, not from the stand-in that everything else is linked with.
$(O)/obj/plans/cuda_libraries.o: src/backend/cuda/cuda_libraries.c
	@mkdir -p $(@D)
	$(call say,CC,$@)$(COMPILE) $(CUDA_CFLAGS) -UCOAR_LIBRARIES_LINKED -c $< -o $@

$(O)/plans/cudnn_plans: tests/plans/cudnn_plans.c $(O)/obj/plans/cuda_libraries.o $(B)/libtests.a $(O)/libcoar.a \
                        | $(O)/plans/libcuda.so.1
	@mkdir -p $(@D)
	$(call program,-Itests $(CUDA_CFLAGS) $(PLAN_RPATH))

.PHONY: plan-tests
plan-tests: $(O)/plans/cudnn_plans
