#!/usr/bin/env bash
# Let ruff and clang-format rewrite the files; after `make setup`.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/ruff check --fix .
.venv/bin/ruff format .
.venv/bin/clang-format -i csrc/*.cpp csrc/*.h csrc/kernels/*.inl
