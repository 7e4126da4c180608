#!/usr/bin/env bash
# packaging/xla_headers.sh FOLDER: the headers of XLA's foreign functions, in FOLDER/jaxlib/include, from the oldest
# jaxlib that scorefusion[jax] takes. Newer ones take functions that were built with them.
set -euo pipefail
jaxlib=0.8.0

mkdir -p "$1"
python3 -m pip download --quiet --no-deps --only-binary :all: --python-version 3.11 --platform manylinux_2_27_x86_64 \
  --dest "$1" "jaxlib==$jaxlib"
python3 -m zipfile -e "$1"/jaxlib-*.whl "$1"
rm "$1"/jaxlib-*.whl
