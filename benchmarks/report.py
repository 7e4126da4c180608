"""Results as JSON, with the machine they came from."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import scorefusion as sf

from .harness import Result

RESULTS = Path(__file__).parent / "results"
PEERS = ("diffusers", "jax", "numpy", "torch", "torchdiffeq")
SAME = ("cpu", "gpu", "python", "versions", "scorefusion", "device", "threads", "size")  # in one file, for all groups


@dataclass(frozen=True)
class Group:
    what: str
    date: str
    seconds: float  # it took
    results: Sequence[Result]


@dataclass
class Measured:
    """What one machine did: about the machine, and the groups by name."""

    about: dict[str, Any]
    groups: dict[str, Group] = field(default_factory=dict)

    @property
    def results(self) -> list[Result]:
        return [result for group in self.groups.values() for result in group.results]

    def is_of(self, about: dict[str, Any]) -> bool:
        """The same machine, versions and settings."""
        return all(self.about.get(key) == about.get(key) for key in SAME)


def machine(device: str) -> dict[str, Any]:
    """The machine, and the versions of all that takes part."""
    installed = {d.name.lower(): d.version for d in importlib.metadata.distributions()}
    description: dict[str, Any] = {
        "name": platform.node(),
        "cpu": cpu_model(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed[name] for name in PEERS if name in installed},
        "scorefusion": sf.build_info(),
    }
    if device == "cuda":
        import torch

        description["gpu"] = torch.cuda.get_device_name()
    return description


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def results_path(device: str) -> Path:
    """Where the results of this machine are kept."""
    about = machine(device)
    processor = re.sub(r"[^a-z0-9]+", "-", str(about.get("gpu", about["cpu"])).lower()).strip("-")
    return RESULTS / f"{processor}-{os.cpu_count()}-{device}.json"


def write(path: Path, measured: Measured) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    groups = {
        name: {
            "what": group.what,
            "date": group.date,
            "seconds": round(group.seconds, 1),
            "results": [result.as_dict() for result in group.results],
        }
        for name, group in measured.groups.items()
    }
    path.write_text(json.dumps(measured.about | {"groups": groups}, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> Measured:
    """ValueError if the file holds something else."""
    saved = json.loads(path.read_text())
    if not saved.get("quick"):  # gpu.sh keeps more, and says so if its numbers mean nothing
        saved = saved.get("benchmarks") or saved
    if "groups" not in saved:
        raise ValueError(f"{path} must be a file that python -m benchmarks wrote; it has no groups")
    groups = {
        name: Group(group["what"], group["date"], group["seconds"], [Result.from_dict(r) for r in group["results"]])
        for name, group in saved.pop("groups").items()
    }
    return Measured(saved, groups)


def read_all(folder: Path) -> dict[Path, Measured]:
    """Every such file there."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path] = read(path)
        except ValueError:  # something else
            continue
    return found


def summary(results: Iterable[Result]) -> str:
    """What was missed, and who was better than we: the part that nobody likes to print."""
    results = list(results)
    met = sum(goal.is_met(result.times) for result in results for goal in result.goals)
    missed = [text for result in results for text in result.missed()]
    lost = [text for result in results for text in result.lost()]
    return "\n".join(
        [
            f"{met} goals met, {len(missed)} missed",
            *(f"  missed: {text}" for text in missed),
            f"{len(lost)} peers better than we",
            *(f"  lost: {text}" for text in lost),
        ]
    )
