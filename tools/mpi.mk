# mpi.mk - MPI in the build; part of the Makefile. src/comm/mpi.c alone is compiled against it.
#
#   MPI=auto  1 where pkg-config or mpicc finds one, else 0 (the default)
#   MPI=0     without it                 MPI=1  with it: an error where there is none
#
# An MPI that pkg-config knows goes before the one whose mpicc is on PATH; MPI_PKG= (empty) asks mpicc alone.

MPI      ?= auto
MPI_PKG  ?= $(firstword $(foreach p,ompi-c mpich mpi-c,$(shell pkg-config --exists $(p) 2>/dev/null && echo $(p))))
ifneq ($(MPI),0)
MPI_SHOW := $(if $(MPI_PKG),$(shell pkg-config --cflags --libs $(MPI_PKG)),$(shell mpicc -show 2>/dev/null))
endif
ifeq ($(filter $(MPI),0 1 auto),)
$(error MPI=$(MPI): must be auto, 0 or 1)
endif
MPI_LIBS   := $(filter -L% -l% -Wl$(comma)%,$(MPI_SHOW))
MPI_CFLAGS := $(if $(MPI_LIBS),-DCOAR_MPI $(patsubst -I%,-isystem %,$(filter -I%,$(MPI_SHOW))))
SEE_MPI    := src/comm/comm.c $(if $(MPI_LIBS),src/comm/mpi.c)

# Its time changes when its contents do. An MPI that is asked for may have been installed by `setup`, so that this is where
# it is missed.
$(B)/obj/mpi: always
	@[ "$(MPI)" != 1 ] || [ -n "$(MPI_LIBS)" ] || { echo "MPI=1: neither pkg-config (ompi-c, mpich) nor mpicc finds an MPI: \
install one (Debian: libopenmpi-dev openmpi-bin), or build with MPI=0" >&2; exit 1; }
	@mkdir -p $(@D); echo '$(MPI_CFLAGS)' | cmp -s - $@ || echo '$(MPI_CFLAGS)' >$@

$(SEE_MPI:%.c=$(B)/obj/%.o): $(B)/obj/%.o: %.c $(B)/obj/mpi $(B)/obj/flags
	@mkdir -p $(@D)
	$(call say,CC,$@)$(COMPILE) $(MPI_CFLAGS) -c $< -o $@
