#!/bin/sh
# Prints a Python that has the modules named (numpy and h5py): Debian's or the one on PATH; nothing when there is none.
modules=${1:-numpy, h5py}
for p in python3 /usr/bin/python3; do
    if "$p" -c "import $modules" 2>/dev/null; then
        command -v "$p"
        exit 0
    fi
done
