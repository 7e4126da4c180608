"""``python -m benchmarks``: the engine and all that stands on it, against the machine and against others, in one run.

The results go to one JSON file of the machine, and from all of those files to one page, benchmarks/results/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import scorefusion as sf

from . import cpu, cuda, page
from .compare import compare
from .harness import MIB, Options
from .report import RESULTS, Group, Measured, machine, now, read, results_path, summary, write


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--group",
        action="append",
        choices=sorted({*cpu.GROUPS, *cpu.PARTS, *cuda.GROUPS}),
        help="what to measure, once or several times; the other groups of the file stay. Default: everything",
    )
    parser.add_argument(
        "--size", type=int, default=256, metavar="MiB", help="of one float32 operand (default %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=sf.get_num_threads(), help="for us and for torch (default %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="for each line (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="does it run? numbers mean nothing")
    parser.add_argument(
        "--output", type=Path, help="JSON file (default: that of this machine in benchmarks/results; none if quick)"
    )
    parser.add_argument("--page", action="store_true", help="only write the page, from the files that are there")
    parser.add_argument(
        "--compare",
        nargs="+",
        type=Path,
        metavar="JSON",
        help="only compare two files, OLD and NEW (default: that of this machine): status 1 if a ratio of ours to "
        "others in the same run fell by more than 15 %%, and by more than its spread",
    )
    arguments = parser.parse_args(argv)

    if arguments.compare:
        if len(arguments.compare) > 2:
            parser.error(f"--compare must have one file or two, got {len(arguments.compare)}")
        try:
            old, new = (read(path) for path in [*arguments.compare, results_path(arguments.device)][:2])
        except (OSError, ValueError) as error:
            parser.error(str(error))
        comparison = compare(old, new)
        print(comparison)
        sys.exit(1 if comparison.regressions else 0)
    if not arguments.page:
        measure(parser, arguments)
    if arguments.page or not (arguments.quick or arguments.output):
        print(f"written to {page.write(RESULTS)}")


def measure(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Into the file, group by group."""
    if arguments.device == "cuda" and not sf.cuda.available():
        parser.error(f"no CUDA: {sf.cuda.why_not()}")
    if arguments.quick:
        arguments.size, arguments.seconds = 1, 0.02
    options = Options(arguments.size * MIB, arguments.threads, arguments.seconds, arguments.quick)
    device = cpu if arguments.device == "cpu" else cuda
    about = machine(arguments.device) | {"device": arguments.device, "threads": options.threads, "size": options.size}

    output = arguments.output or (None if arguments.quick else results_path(arguments.device))
    measured = Measured(about)
    if output and output.exists():
        try:
            before = read(output)
        except ValueError as error:
            parser.error(str(error))
        if before.is_of(about):
            kept = {name: group for name, group in before.groups.items() if name in device.GROUPS}
            measured = Measured(about, kept)
        elif arguments.group:
            parser.error(f"{output} is of other versions or settings: measure everything, or name another --output")

    print(
        f"{about.get('gpu', about['cpu'])}, {os.cpu_count()} processors, {options.threads} threads of each library, "
        f"{arguments.size} MiB per operand\n"
        "Columns: median time, quartiles, bandwidth, its share of the first yardstick's, time over ours\n"
    )
    results, start = [], time.perf_counter()
    for name in arguments.group or device.GROUPS:
        begin, found = time.perf_counter(), []
        for result in device.run(name, options):
            result = dataclasses.replace(result, goals=()) if arguments.quick else result
            print(result.table(), flush=True, end="\n\n")
            found.append(result)
        what = " ".join(((device.GROUPS | cpu.PARTS)[name].__doc__ or "").split())
        measured.groups[name] = Group(what, now(), time.perf_counter() - begin, found)
        results += found
        if output:
            measured.groups = {n: measured.groups[n] for n in [*device.GROUPS, *cpu.PARTS] if n in measured.groups}
            write(output, measured)
    print("it runs" if arguments.quick else summary(results), f"\n{time.perf_counter() - start:.0f} s")
    if output:
        print(f"written to {output}")


if __name__ == "__main__":
    main()
