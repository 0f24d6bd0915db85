#!/usr/bin/env bash
# The C++ kernels under the address and undefined-behavior sanitizers, through every op test; after `make setup`.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
built=$PWD/build/sanitize
sanitizers="-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined"
"$python" -m pip install --quiet --upgrade --target "$built/tools" 'pybind11>=2.13' 'setuptools>=77'
PYTHONPATH=$built/tools CFLAGS="$sanitizers -O1 -g -fno-omit-frame-pointer -Werror" LDFLAGS=$sanitizers \
    "$python" setup.py --quiet build --build-base "$built" --build-lib "$built/lib"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONSAFEPATH=1 PYTHONPATH=$built/lib
LD_PRELOAD="$("${CXX:-g++}" -print-file-name=libasan.so) $("${CXX:-g++}" -print-file-name=libstdc++.so)" \
    "$python" -m pytest tests/ops --ignore-glob='*test_triton*'
