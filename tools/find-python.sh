#!/bin/sh
# Prints a Python that has numpy and h5py (Debian's python3-h5py, or the one on PATH); nothing when there is none.
for p in python3 /usr/bin/python3; do
    if "$p" -c 'import numpy, h5py' 2>/dev/null; then
        command -v "$p"
        exit 0
    fi
done
