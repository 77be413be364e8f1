#!/bin/sh
# Makes sure that the Debian or Ubuntu packages coar is built from are there: installs them as root, else prints the
# one command that would and fails. Quiet and quick when nothing is missing.
set -eu
build="gcc make pkg-config libhdf5-dev libopenblas-dev liblapacke-dev libjpeg-dev libpng-dev libcjson-dev libssl-dev libpcre2-dev"
[ "${CUDA:-0}" = 0 ] || build="$build g++"
[ "${MPI:-0}" != 1 ] || build="$build libopenmpi-dev openmpi-bin"
[ "${1:-}" = pictures ] && build="$build python3-numpy"
[ "${1:-}" = slurm ] && build="$build slurm-wlm munge"
[ "${1:-}" = test ] && build="$build g++ python3-h5py python3-numpy"
# Tests that want these are skipped without them.
[ "${1:-}" = test ] && [ "${MPI:-auto}" != 0 ] && [ "$(id -u)" = 0 ] && build="$build libopenmpi-dev openmpi-bin"

missing=""
for p in $build; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing$missing" >&2
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } >/dev/null
else
    if pkg-config --exists hdf5 openblas lapacke libjpeg libpng libcjson libcrypto libpcre2-8 2>/dev/null && [ -z "${1:-}" ]; then
        exit 0 # not Debian's packages, but all libraries are there
    fi
    echo "setup: packages are missing; run: sudo apt-get install$missing" >&2
    exit 1
fi
