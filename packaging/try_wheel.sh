#!/usr/bin/env bash
# Tries the scorefusion that is installed for `python`, away from its sources: nothing of them but the tests can be read.
set -euo pipefail
sources=$(cd "$(dirname "$0")/.." && pwd)
elsewhere=$(mktemp -d)
trap 'rm -rf "$elsewhere"' EXIT
cp -r "$sources/tests" "$sources/setup.cfg" "$elsewhere"
cd "$elsewhere"

python -m scorefusion info
python -m scorefusion demo
python -m pip install --quiet hypothesis ml_dtypes 'pytest>=8' pytest-timeout pytest-xdist scipy
python -m pytest -q -n 2 --dist loadfile tests/test_{combine,gram,residual,noise,resample,threads,schedule,model}.py
