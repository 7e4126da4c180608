"""``python -m scorefusion info`` and ``python -m scorefusion demo``."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import scorefusion as sf
from scorefusion import demo

FRAMEWORKS = ("numpy", "torch", "jax", "cupy", "ml_dtypes")
OUTPUTS = (".png", ".svg", ".pdf", ".json")


def info() -> dict[str, Any]:
    """What this build is, what this machine offers it, and the array libraries it may meet."""
    return {**sf.build_info(), "frameworks": installed_frameworks()}


def installed_frameworks() -> dict[str, str]:
    """Versions by name, read from the packages' metadata: nothing is imported."""
    versions = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"] or ""
        framework = "cupy" if name.startswith("cupy-cuda") else name
        if framework in FRAMEWORKS:
            versions[framework] = distribution.version
    return {name: versions[name] for name in FRAMEWORKS if name in versions}


def print_info(facts: dict[str, Any], indent: str = "") -> None:
    for name, value in facts.items():
        label = f"{indent}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            print(label)
            print_info(value, indent + "  ")
        else:
            print(f"{label:<18}{', '.join(value) if isinstance(value, list) else value}".rstrip())


def draw(study: Any, result: Any, path: Path) -> bool:
    """Writes the figure; without matplotlib there is none, and a word on stderr."""
    try:
        figure = study.figure(result)
    except ImportError:
        print("no figure: that needs matplotlib (pip install matplotlib)", file=sys.stderr)
        return False
    figure.savefig(path, dpi=100)
    return True


def digits(folder: Path | None) -> Any:
    """The module of the digits, which has `run`, `text`, `as_json` and `figure` as `demo` has."""
    try:
        from scorefusion import digits
    except ImportError:
        raise ValueError("--digits needs torch and safetensors: pip install 'scorefusion[torch]'") from None
    digits.FOLDER = folder or digits.FOLDER
    if not (digits.FOLDER / "mnist79.npz").exists():
        raise ValueError(
            f"--digits needs images and networks (6 MB) that lie in examples/digits of the source and are no part of "
            f"the installed package: there are none in {digits.FOLDER}. Give --folder SOURCE/examples/digits"
        )
    return digits


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scorefusion", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    about = commands.add_parser("info", help="versions, instruction sets, threads, CUDA")
    show = commands.add_parser("demo", help="networks fused to fit a few data, in one dimension or of digits")
    show.add_argument("--digits", action="store_true", help="handwritten sevens and nines (with torch, two minutes)")
    show.add_argument("--folder", type=Path, help="of the digits' images and networks: examples/digits of the source")
    show.add_argument("--n", type=int, default=256, help="number of data (default %(default)s)")
    show.add_argument("--seed", type=int, default=0, help="of the data and all noise; baselines are there for 0 to 9")
    show.add_argument(
        "--sets", type=int, default=1, help="data sets that the table is the mean of (10: a minute or two)"
    )
    show.add_argument(
        "--output",
        type=Path,
        default=Path("scorefusion_demo.png"),
        help="file of the figure, .png, .svg or .pdf, or of the numbers, .json (default %(default)s)",
    )
    for command in (about, show):
        command.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)

    if options.command == "info":
        facts = info()
        print(json.dumps(facts, indent=1)) if options.json else print_info(facts)
        return 0

    if options.n < 2 or options.sets < 1 or options.seed < 0:
        show.error("--n must be at least 2, --sets at least 1, --seed not negative")
    if options.output.suffix not in OUTPUTS or not options.output.parent.is_dir():
        show.error(f"--output must be a file {', '.join(OUTPUTS)} in a folder that exists, got {options.output}")
    study: Any = demo
    if options.digits:
        try:
            study = digits(options.folder)
        except ValueError as error:
            show.error(str(error))
        if options.sets > 1 or options.n > study.MOST:
            show.error(f"with --digits there is one data set, of at most {study.MOST}")
    result = study.run(options.n, options.seed, **({} if options.digits else {"sets": options.sets}))
    numbers = study.as_json(result)
    if not options.json:
        print(study.text(result))
    if options.output.suffix == ".json":
        options.output.write_text(json.dumps(numbers, indent=1) + "\n")
    written = options.output.suffix == ".json" or draw(study, result, options.output)
    if options.json:
        print(json.dumps({**numbers, "output": str(options.output) if written else None}, indent=1))
    else:
        print(f"{result.seconds:.1f} s" + (f"; see {options.output}" if written else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
