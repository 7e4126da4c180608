"""``python -m benchmarks``: bytes, GB/s, shares of a copy, and the same work elsewhere, in one run."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

import scorefusion as sf

from . import cpu, cuda
from .report import machine, results_path, summary, write_results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--group",
        action="append",
        choices=sorted({*cpu.GROUPS, *cpu.PARTS, *cuda.GROUPS}),
        help="what to measure, once or several times; default: everything for the device",
    )
    parser.add_argument(
        "--size", type=int, default=256, metavar="MiB", help="of one float32 operand (default %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=sf.get_num_threads(), help="for us and for torch (default %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="does it run? numbers mean nothing")
    parser.add_argument(
        "--output", type=Path, help="JSON file (default benchmarks/results/<processor>.json; none if quick)"
    )
    arguments = parser.parse_args()

    if arguments.device == "cuda" and not sf.cuda.available():
        parser.error(f"no CUDA: {sf.cuda.why_not()}")
    if arguments.quick:
        arguments.size, arguments.seconds = 1, 0.02
    options = cpu.Options(arguments.size * cpu.MIB, arguments.threads, arguments.seconds, arguments.quick)
    device = cpu if arguments.device == "cpu" else cuda
    about = machine(arguments.device) | {"device": arguments.device, "threads": options.threads, "size": options.size}
    print(
        f"{about.get('gpu', about['cpu'])}, {os.cpu_count()} processors, {options.threads} threads of each library, "
        f"{arguments.size} MiB per operand\n"
        "Columns: median time, quartiles, bandwidth, its share of the first yardstick's, time over ours\n"
    )
    results = []
    for result in device.run(arguments.group or list(device.GROUPS), options):
        if arguments.quick:
            result = dataclasses.replace(result, goals=())
        print(result.table(), flush=True, end="\n\n")
        results.append(result)
    print("it runs" if arguments.quick else summary(results))

    output = arguments.output
    if output is None and not arguments.quick:
        output = results_path(about, arguments.device)
    if output:
        write_results(output, results, about)
        print(f"written to {output}")


if __name__ == "__main__":
    main()
