"""``python -m benchmarks.cuda_resources``: what ptxas says of every CUDA kernel: registers, spills, shared memory.

Needs nvcc and no GPU. Writes benchmarks/results/cuda_resources.txt; the exit status says whether a kernel spills.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLAGS = ["-std=c++20", "-O3", "--fmad=false", "-Xptxas", "-v"]  # those of CMakeLists.txt

ENTRY = re.compile(
    r"Compiling entry function '(?P<symbol>\w+)' for '\w+'\n.*?\n"
    r"\s+(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\n"
    r".*?Used (?P<registers>\d+) registers(?P<rest>.*)"
)


@dataclass(frozen=True, order=True)
class Kernel:
    name: str
    registers: int
    stack: int  # bytes, as are all below
    spilled: int
    shared: int


def kernel_name(symbol: str) -> str:
    """``combine_kernel<4, 2>``, without namespaces and parameters."""
    name = subprocess.check_output(["c++filt", symbol], text=True)
    return re.sub(r"\w+::|void |\(.*", "", name).strip()


def compile_kernels(source: Path, architecture: str) -> list[Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", *FLAGS, f"-arch={architecture}", "-cubin", "-o", f"{folder}/out", str(source)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    kernels = []
    for entry in ENTRY.finditer(told):
        shared = re.search(r"(\d+) bytes smem", entry["rest"])
        kernels.append(
            Kernel(
                kernel_name(entry["symbol"]),
                int(entry["registers"]),
                int(entry["stack"]),
                int(entry["stores"]) + int(entry["loads"]),
                int(shared[1]) if shared else 0,
            )
        )
    return sorted(kernels)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda_resources", description=__doc__)
    parser.add_argument("--architecture", default="sm_90")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "cuda_resources.txt")
    arguments = parser.parse_args()

    nvcc = subprocess.check_output(["nvcc", "--version"], text=True)
    version = re.search(r"release ([\d.]+)", nvcc)
    lines = [
        f"nvcc {version[1] if version else '?'}, {arguments.architecture}. <V, M>: V elements to a pack, M operands",
        "(0: any number). Bytes per thread, shared memory per block.",
        "",
        f"{'kernel':<34}{'registers':>10}{'stack':>8}{'spilled':>9}{'shared':>8}",
    ]
    kernels = [
        kernel
        for source in sorted((ROOT / "csrc").rglob("*.cu"))
        for kernel in compile_kernels(source, arguments.architecture)
    ]
    lines += [f"{k.name:<34}{k.registers:>10}{k.stack:>8}{k.spilled:>9}{k.shared:>8}" for k in kernels]
    spilling = [kernel.name for kernel in kernels if kernel.spilled or kernel.stack]
    lines += ["", f"{len(kernels)} kernels, {len(spilling)} with spills or a stack"]
    print("\n".join(lines))
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text("\n".join(lines) + "\n")
    sys.exit(1 if spilling else 0)


if __name__ == "__main__":
    main()
