"""Results as a table and as JSON, with the machine they came from."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import scorefusion as sf

from .harness import Result

PEERS = ("numpy", "torch", "jax")


def machine(device: str) -> dict[str, object]:
    """The machine, and the versions of all that takes part."""
    installed = {d.name.lower(): d.version for d in importlib.metadata.distributions() if d.name.lower() in PEERS}
    description: dict[str, object] = {
        "name": platform.node(),
        "cpu": cpu_model(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": installed,
        "scorefusion": sf.build_info(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    if device == "cuda":
        import torch

        description["gpu"] = torch.cuda.get_device_name()
    return description


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def results_path(about: dict[str, object], of: str) -> Path:
    """Where the results of this machine are kept."""
    processor = re.sub(r"[^a-z0-9]+", "-", str(about.get("gpu", about["cpu"])).lower()).strip("-")
    return Path(__file__).parent / "results" / f"{processor}-{os.cpu_count()}-{of}.json"


def write_results(path: Path, results: Sequence[Result], about: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = about | {"results": [result.as_dict() for result in results]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_results(path: Path) -> list[Result]:
    return [Result.from_dict(saved) for saved in json.loads(path.read_text())["results"]]


def summary(results: Sequence[Result]) -> str:
    """What was missed, and who was faster than we: the part that nobody likes to print."""
    met = sum(goal.is_met(result.times) for result in results for goal in result.goals)
    missed = [text for result in results for text in result.missed()]
    lost = [text for result in results for text in result.lost()]
    return "\n".join(
        [
            f"{met} goals met, {len(missed)} missed",
            *(f"  missed: {text}" for text in missed),
            f"{len(lost)} peers faster than we",
            *(f"  lost: {text}" for text in lost),
        ]
    )
