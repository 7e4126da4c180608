#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, from a checkout: build, resource report, the whole test suite on the device, the four
# compute-sanitizer tools, the benchmarks. One JSON with the machine's name goes to benchmarks/results, and its tables and
# pictures to the page there.
#
#   benchmarks/gpu.sh [--quick]      quick: short benchmarks, whose numbers mean nothing
#
# Wants an NVIDIA GPU with its driver, nvcc and Python 3.11 or newer. Makes its own virtual environment in build/gpu;
# pip's variables are respected (PIP_FIND_LINKS and PIP_NO_INDEX for a machine without network). Or GPU_PYTHON=…
# names a Python that has everything that pyproject.toml lists under dev: then nothing is installed but the package.
# A step that fails does not stop those after it. The exit status is 0 only if all went well.
set -uo pipefail
cd "$(dirname "$0")/.."

quick=""
[ "${1:-}" = --quick ] && quick=--quick
work=build/gpu
logs=$work/logs
rm -rf "$logs" "$work/site"
mkdir -p "$logs"
steps=$logs/steps.tsv # name, exit status, seconds
: >"$steps"
failed=0

# step NAME LIMIT COMMAND...: runs it for at most so many minutes, shows and keeps what it says.
step() {
  local name=$1 limit=$2 start=$SECONDS status
  shift 2
  printf '\n== %s\n' "$name"
  timeout --kill-after=30 "$((limit * 60))" "$@" 2>&1 | tee "$logs/$name.log"
  status=${PIPESTATUS[0]}
  printf '%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - start))" >>"$steps"
  if [ "$status" != 0 ]; then
    failed=1
    printf '== %s FAILED with status %s\n' "$name" "$status"
  fi
  return "$status"
}

# ---- The machine -------------------------------------------------------------------------------------------------------

if ! command -v nvcc >/dev/null; then
  for folder in "${CUDA_HOME:-}" /usr/local/cuda; do
    [ -x "$folder/bin/nvcc" ] && PATH=$folder/bin:$PATH
  done
fi
step gpu 1 nvidia-smi
step nvcc 1 nvcc --version

# ---- Python, the package ------------------------------------------------------------------------------------------------

install() {
  if [ -n "${GPU_PYTHON:-}" ]; then
    "$python" -m pip install --quiet --no-build-isolation --no-deps --target "$work/site" . || return
  else
    python3 -m venv "$work/venv" && "$python" -m pip install --quiet --upgrade pip &&
      "$python" -m pip install --quiet '.[test,bench]' || return
  fi
  "$python" -m scorefusion info
}
# CuPy of the toolkit's generation: its tests are skipped where it cannot be had.
install_cupy() {
  "$python" -c 'import cupy' 2>/dev/null && return
  local generation
  generation=$(nvcc --version | sed -n 's/.*release \([0-9]*\).*/\1/p')
  "$python" -m pip install --quiet "cupy-cuda${generation}x"
}
# compute-sanitizer from PATH, from the toolkit or from PyPI.
find_sanitizer() {
  sanitizer=$(command -v compute-sanitizer || ls "$(dirname "$(command -v nvcc)")"/../*/compute-sanitizer 2>/dev/null | head -1)
  [ -n "$sanitizer" ] && [ -x "$sanitizer" ] && return
  "$python" -m pip install --quiet --target "$work/sanitizer" nvidia-cuda-sanitizer-api
  sanitizer=$(find "$work/sanitizer" -path '*compute-sanitizer/compute-sanitizer' -type f 2>/dev/null | head -1)
  [ -n "$sanitizer" ] && chmod -R u+x "$(dirname "$sanitizer")"
}

python=${GPU_PYTHON:-$PWD/$work/venv/bin/python}
if [ -n "${GPU_PYTHON:-}" ]; then
  export PYTHONPATH=$PWD/$work/site${PYTHONPATH:+:$PYTHONPATH}
fi
export python work GPU_PYTHON="${GPU_PYTHON:-}"
export -f install
step install 20 bash -c install
[ -n "$GPU_PYTHON" ] || install_cupy || echo "CuPy cannot be had here: its tests are skipped"

# ---- Tests ---------------------------------------------------------------------------------------------------------------

step resources 10 "$python" -m benchmarks.cuda_resources --output "$logs/cuda_resources.txt"
step tests 60 "$python" -m pytest -q --device cuda --junit-xml "$logs/tests.xml"

# The sanitizers watch our kernels alone. PyTorch's cache would hide where its arrays end.
sanitizer=""
find_sanitizer
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
for tool in memcheck racecheck initcheck synccheck; do
  if [ -z "$sanitizer" ]; then
    step "$tool" 1 bash -c 'echo "compute-sanitizer is neither installed nor on PyPI" && false'
    continue
  fi
  # 9: the sanitizer's own complaint, apart from a failed test
  step "$tool" 30 "$sanitizer" --tool "$tool" --error-exitcode 9 --kernel-name kernel_substring=scorefusion \
    "$python" -m pytest -q -x tests/test_cuda.py -k matches_the_cpu --junit-xml "$logs/$tool.xml" -p no:cacheprovider -o timeout=1800
done
unset PYTORCH_NO_CUDA_MEMORY_CACHING

# ---- Benchmarks ------------------------------------------------------------------------------------------------------------

step benchmarks 60 "$python" -m benchmarks --device cuda $quick --output "$logs/benchmarks.json"

# ---- One JSON ----------------------------------------------------------------------------------------------------------------

reader=$python
[ -x "$reader" ] || reader=python3
"$reader" - "$logs" $quick <<'PYTHON' || failed=1
import json, platform, re, subprocess, sys, xml.etree.ElementTree as ElementTree
from datetime import datetime, timezone
from pathlib import Path

logs, quick = Path(sys.argv[1]), "--quick" in sys.argv

def told(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""

def counts(path):
    """What pytest counted, and the names of what failed."""
    if not path.exists():
        return None
    suite = next(ElementTree.parse(path).iter("testsuite"))
    failed = [case.get("classname") + "::" + case.get("name") for case in suite.iter("testcase")
              if case.find("failure") is not None or case.find("error") is not None]
    return {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")} | {"failed": failed}

steps = []
for line in (logs / "steps.tsv").read_text().splitlines():
    name, status, seconds = line.split("\t")
    step = {"name": name, "passed": status == "0", "status": int(status), "seconds": int(seconds)}
    ran = counts(logs / f"{name}.xml")
    if ran:
        step["pytest"] = ran
        # nothing that ran is nothing shown
        step["passed"] = step["passed"] and ran["tests"] > ran["skipped"]
    if not step["passed"]:
        step["last_lines"] = (logs / f"{name}.log").read_text(errors="replace").splitlines()[-15:]
    steps.append(step)

gpu, driver = (told("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").splitlines() or [", "])[0].split(", ")
measured = logs / "benchmarks.json"
resources = logs / "cuda_resources.txt"
report = {
    "name": platform.node(), "gpu": gpu, "driver": driver, "nvcc": told("nvcc", "--version").splitlines()[-1:],
    "commit": told("git", "rev-parse", "HEAD"), "changed": bool(told("git", "status", "--porcelain")),
    "python": platform.python_version(), "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    "quick": quick, "passed": all(step["passed"] for step in steps), "steps": steps,
    "resources": resources.read_text().splitlines() if resources.exists() else None,
    "benchmarks": json.loads(measured.read_text()) if measured.exists() else None,
}
name = re.sub(r"[^a-z0-9]+", "-", f"{gpu or 'no gpu'} {platform.node()}".lower()).strip("-")
target = Path("benchmarks/results") / f"gpu-{name}.json"
target.parent.mkdir(exist_ok=True)
target.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")

print("\n== summary")
for step in steps:
    ran = step.get("pytest")
    detail = f"  {ran['tests']} tests, {ran['failures'] + ran['errors']} failed, {ran['skipped']} skipped" if ran else ""
    print(f"{'passed' if step['passed'] else 'FAILED'}  {step['name']:<12}{step['seconds']:>6} s{detail}")
print(f"written to {target}")
sys.exit(0 if report["passed"] else 1)
PYTHON
[ -n "$quick" ] || "$reader" -m benchmarks --page || failed=1
exit "$failed"
