"""Writes the tables of the README here from ``results.json``: each number in them is one of its.

python examples/digits/tables.py
"""

from __future__ import annotations

import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README, RESULTS = HERE / "README.md", HERE / "results.json"
TARGET = 0.6
SIZES = (64, 256, 1024)
ASKED = (0.11, 0.07, 0.05)  # |share − .60| at these
TRAINED = {  # how a baseline was trained
    "scratch": "trained on the n alone",
    "scratch, long": "the same, five times as long",
    "tuned": "the 70 % auxiliary, tuned on the n",
}
LEVELS = {"all levels": "all levels", "window": "−8 to −1", "narrow": "−8 to −3"}
Results = dict[str, Any]


def number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".replace("0.", ".", 1).replace("-", "−")


def with_error(value: float, error: float) -> str:
    return f"{number(value)} ± {number(error)}"


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def line(results: Results) -> tuple[float, float]:
    """Slope and offset of the log-odds of sevens among what the warm pair draws by SDE, in the 90 % network's λ."""
    known = {w: results[f"warm pair, SDE, λ = {w}"]["share"] for w in (0.5, 0.6, 0.7)}
    slope, offset = statistics.linear_regression([*known], [math.log(p / (1 - p)) for p in known.values()])
    return slope, offset


def drawn_share(results: Results, weight: float) -> float:
    slope, offset = line(results)
    return 1 / (1 + math.exp(-(slope * weight + offset)))


def targets(results: Results, kind: str, n: int) -> list[Any]:
    """What was found on each target."""
    return [found for name, found in results.items() if name.startswith(f"{kind}, n = {n}, target ")]


def learned(results: Results) -> str:
    """Σ λ_i share_i."""
    rows = []
    for suite, where in (
        *(("warm four", each) for each in ("all levels", "window")),
        *(("warm pair", each) for each in ("all levels", "window")),
        *(("independent pair", each) for each in LEVELS),
    ):
        found = [
            results[f"learning {suite}"][f"{kind}, n = {n}, {where}"] for kind in ("stratified", "iid") for n in SIZES
        ]
        cells = [with_error(each["implied_share"], each["implied_share_deviation"]) for each in found]
        rows.append([f"{suite}, {LEVELS[where]}", *cells])
    sizes = [str(n) for n in SIZES[1:]]
    return table(["auxiliaries, log-SNR", "stratified, n = 64", *sizes, "iid, n = 64", *sizes], rows)


def intervals(results: Results) -> str:
    """λ of the 90 % network from one target, as a user's call tells it."""
    rows = []
    for suite in ("warm pair", "independent pair"):
        for n in SIZES:
            found = results.get(f"fit {suite}, n = {n}")
            for where in ("all levels", "window") if found else ():
                low, high = found[where]["interval"][1]
                warns = "warns" if found[where]["warns"] else "–"
                weight = f"{number(found[where]['weights'][1])} ({number(low)} to {number(high)})"
                rows.append([suite, str(n), LEVELS[where], weight, warns, str(found[where]["evaluations"])])
    return table(["auxiliaries", "n", "log-SNR", "λ (95 %)", "", "evaluations of each network"], rows)


def bins(results: Results) -> str:
    """What tells two networks apart at a noise level, and the λ of the second that it alone would choose."""
    pairs = [results[f"learning {suite}"]["bins"] for suite in ("warm pair", "independent pair")]
    edges = pairs[0]["logsnr"]
    rows = [
        [
            f"{edges[i]:.0f} to {edges[i + 1]:.0f}".replace("-", "−"),
            *(cell for each in pairs for cell in (f"{each['distance'][i]:.2f}", f"{100 * each['signal'][i]:.1f} %")),
            *(number(each["weights"][i][1], 2) for each in pairs),
        ]
        for i in range(0, len(edges) - 1, 2)
    ]
    return table(["log-SNR", "warm: E‖r₁ − r₀‖²", "signal", "independent", "signal", "λ, warm", "independent"], rows)


def samples(results: Results) -> str:
    """The share of sevens in what each model draws."""
    names = {
        **{f"auxiliary warm_{share}": f"the {share} % auxiliary alone" for share in (10, 30, 70, 90)},
        "warm pair, SDE, λ = 0.5": "fused, λ = .5 (equal weights)",
        "warm pair, SDE, λ = 0.6": "fused, λ = .6",
        "warm pair, SDE, λ = 0.7": "fused, λ = .7",
        "warm pair, ODE, λ = 0.6": "fused, λ = .6, by the ODE",
        "warm pair, exact, λ = 0.6, 30 steps": "exact barycenter, λ = .6, 30 steps",
        "warm pair, exact, λ = 0.6, 300 steps": "exact barycenter, λ = .6, 300 steps",
        "independent pair, SDE, λ = 0.5": "independent pair, λ = .5",
        "independent pair, SDE, λ = 0.6": "independent pair, λ = .6",
    }
    rows = [
        [title, with_error(found["share"], found["error"]), str(found["samples"]), str(found["evaluations_per_sample"])]
        for name, title in names.items()
        if (found := results.get(name))
    ]
    return table(["model", "share of sevens", "samples", "evaluations of networks for each"], rows)


def gains(results: Results) -> str:
    """What the barycenter's weights, from the beginning to a noise level, add to the log-odds of sevens."""
    runs = {
        steps: found
        for steps in (30, 100, 300)
        if (found := results.get(f"warm pair, exact, λ = 0.6, {steps} steps")) is not None
    }
    rows = [
        [
            f"{steps} ({found['samples']})",
            with_error(found["unweighted_share"], found["unweighted_error"]),
            *(number(found["log_odds"][ell + 9], 2) for ell in (-3, -1, 1, 3, 6, 9)),
            number(found["share_by_weights_of_window"]),
            with_error(found["share"], found["error"]),
            f"{found['ess'] / found['samples']:.2f}",
        ]
        for steps, found in runs.items()
    ]
    sampled = results["errors by digit"]
    at = (number(sampled["log_odds"][ell + 8], 2) for ell in (-3, -1, 1, 3, 6, 9))
    rows.append([f"no sampler, {2 * sampled['images']} new images", "", *at, "", "", ""])
    head = ["steps (particles)", "share without weights", "log-odds gained to −3", "−1", "1", "3", "6", "9"]
    return table([*head, "share by weights to −1", "by all weights", "ESS/particles"], rows)


def misses(results: Results) -> str:
    """|share − .60| of what is drawn."""

    def mean(values: list[float]) -> str:
        return f"{number(statistics.mean(values))} ({len(values)})" if values else "–"

    def of_pair(kind: str, where: str, first: bool) -> list[str]:
        found = [results["learning warm pair"][f"{kind}, n = {n}, {where}"] for n in SIZES]
        if first:
            return [mean([abs(p - TARGET) for p in each["first_eight"]["drawn_share"]]) for each in found]
        return [f"{number(each['drawn_share_off'])} ({results['learning warm pair']['sets']})" for each in found]

    def of_trained(kind: str) -> list[str]:
        return [mean([abs(found["share"] - TARGET) for found in targets(results, kind, n)]) for n in SIZES]

    by_descent = [
        mean(
            [abs(drawn_share(results, found["weights"][-1]) - TARGET) for found in targets(results, "SGD warm pair", n)]
        )
        for n in SIZES
    ]
    rows = [
        ["asked", *(number(each, 2) for each in ASKED)],
        ["**fused, λ from −8 to −1**", *of_pair("stratified", "window", True)],
        ["the same, all targets", *of_pair("stratified", "window", False)],
        ["fused, λ from all levels", *of_pair("stratified", "all levels", False)],
        ["fused, λ from −8 to −1, iid targets", *of_pair("iid", "window", False)],
        ["fused, λ by the published SGD", *by_descent],
        *(
            [title, *of_trained(kind)]
            for kind, title in TRAINED.items()
            if any(targets(results, kind, n) for n in SIZES)
        ),
    ]
    fixed = {"equal weights": "warm pair, SDE, λ = 0.5"}
    fixed |= {f"the {share} % auxiliary alone": f"auxiliary warm_{share}" for share in (70, 30, 90, 10)}
    rows += [[title, *[number(abs(results[name]["share"] - TARGET))] * len(SIZES)] for title, name in fixed.items()]
    return table(["\\|share − .60\\| of sevens", *(f"n = {n}" for n in SIZES)], rows)


def likelihoods(results: Results) -> str:
    """Bits per dimension of new images, and how far each is from the fused pair on the same."""
    best = results["bits, warm pair, λ = 0.6"]["values"]
    rows = []
    for name, found in results.items():
        if name.startswith("bits, "):
            away = [a - b for a, b in zip(found["values"], best, strict=True)]
            error = statistics.stdev(away) / len(away) ** 0.5
            more = "–" if not any(away) else f"{statistics.mean(away):+.3f} ± {error:.3f}".replace("-", "−")
            mean = f"{found['mean']:.3f} ± {found['error']:.3f}"
            rows.append((found["mean"], [name.removeprefix("bits, "), mean, more]))
    return table(["model", "bits per dimension", "more than the fused pair"], [row for _, row in sorted(rows)])


def trained(results: Results) -> str:
    """Networks that were trained on n data: their share, their loss on new data, and how near to the data they draw."""
    rows = []
    for kind in TRAINED:
        for n in SIZES:
            if found := targets(results, kind, n):
                steps, start = (found[0]["training"][key] for key in ("steps", "start"))
                title = f"{f'the {start[-2:]} % auxiliary' if start else 'nothing'}, {steps} steps"
                shares, near, loss = ([each[key] for each in found] for key in ("share", "near", "loss"))
                spread = f"{number(min(shares))} to {number(max(shares))}" if len(shares) > 1 else number(shares[0])
                cells = [spread, f"{statistics.mean(loss):.1f}", f"{statistics.mean(near):.2f}"]
                judged = " or ".join(str(m) for m in sorted({each["samples"] for each in found}))
                rows.append([f"from {title}, n = {n}", str(len(found)), judged, *cells])
    losses = targets(results, "losses", 64)
    for name in losses[0] if losses else ():
        rows.append([name, str(len(losses)), "", "", f"{statistics.mean(each[name] for each in losses):.1f}", ""])
    return table(["network", "targets", "samples", "shares of sevens", "loss on new images", "distance"], rows)


def costs(results: Results) -> str:
    """Seconds of one core: what was called, times what a call takes."""
    rate, step = results["cost"]["evaluations_per_second"], results["cost"]["training_step_of_64"]
    rows = []
    for n in SIZES:
        if found := results.get(f"fit warm pair, n = {n}"):
            evaluations = 2 * found["window"]["evaluations"]
            rows.append([f"λ of the pair, {n} data", str(evaluations), f"{evaluations / rate:.1f}"])
    for found in targets(results, "SGD warm pair", 64)[:1]:
        rows.append(
            ["λ by the published SGD, 64 data", str(2 * found["evaluations"]), f"{2 * found['evaluations'] / rate:.0f}"]
        )
    for kind, title in TRAINED.items():
        for found in targets(results, kind, 64)[:1]:
            steps = found["training"]["steps"]
            rows.append([f"{title}: {steps} steps of 64", "", f"{steps * step:.0f}"])
    for name, title in (("warm pair, SDE, λ = 0.6", "fused"), ("auxiliary warm_70", "of one network")):
        evaluations = 256 * results[name]["evaluations_per_sample"]
        rows.append([f"256 samples, {title}", str(evaluations), f"{evaluations / rate:.0f}"])
    return table(["work", "evaluations of networks", "seconds of one core"], rows)


def written(page: str, results: Results) -> str:
    """The page with its tables, each of which stands after a comment with its name, as the results are."""
    for made in (learned, intervals, bins, samples, gains, misses, trained, likelihoods, costs):
        rows, mark = made(results), f"<!-- {made.__name__} -->\n\n"
        page, found = re.subn(re.escape(mark) + r"(\|.*\n)*", lambda _, text=mark + rows + "\n": text, page)
        if found != 1:
            raise ValueError(f"the page must have one {mark.strip()}, got {found}")
    return page


if __name__ == "__main__":
    README.write_text(written(README.read_text(), json.loads(RESULTS.read_text())))
