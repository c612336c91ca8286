"""Fits the production-shaped workload profile to a public trace, once; only the fitted numbers are kept.

    python benchmarks/fit_trace.py gentd26.csv gfdit/_data/production/gentd26.json

The trace (columns `arrival_s, type, images, steps, loras, exec_s`; 14,215 text-to-image requests over 16 days) is
GenTD26, Alibaba's cluster-trace-v2026-GenAI; it stays outside this repository. What is fitted:

- requests an hour by hour of the day, apart for working and quiet days (told apart by their totals);
- how far an hour's rate strays from that: a gamma factor of mean 1, its shape by the method of moments;
- the coefficient of variation of the gaps inside busy hours (1 = Poisson);
- shares of steps and of images a request.

Prints how well hourly counts drawn from the fit match the trace's.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.stats import gamma, ks_1samp, ks_2samp

HOUR_S, DAY_H = 3600, 24
BUSY_HOUR = 100  # requests: enough for a coefficient of variation of the gaps
RARE = 0.002  # a value with a smaller share is counted with the nearest common one
DRAWN_DAYS = 200


def main(trace: Path, out: Path) -> None:
    with trace.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    arrivals = np.array([float(row["arrival_s"]) for row in rows])
    counts = hourly_counts(arrivals)
    working = counts.sum(axis=1) > counts.sum(axis=1).mean() / 2
    shape = dispersion(counts[working])
    fitted = {
        "source": "GenTD26 (Alibaba cluster-trace-v2026-GenAI), fitted by benchmarks/fit_trace.py",
        "requests": len(rows),
        "days": len(counts),
        "working_days": int(working.sum()),
        "working_per_hour": means(counts[working]),
        "quiet_per_hour": means(counts[~working]),
        "hour_gamma_shape": round(shape, 3),
        "gap_cv": round(gap_cv(arrivals), 3),
        "steps": shares(int(row["steps"]) for row in rows),
        "images": shares(int(row["images"]) for row in rows),
    }
    out.write_text(json.dumps(fitted, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(goodness(counts[working], shape) + gaps_goodness(arrivals, fitted["gap_cv"]))


def hourly_counts(arrivals: np.ndarray) -> np.ndarray:
    """Requests of each whole day [days, 24]."""
    hours = np.bincount((arrivals // HOUR_S).astype(int))
    hours = np.pad(hours, (0, -len(hours) % DAY_H))
    return hours.reshape(-1, DAY_H)


def means(counts: np.ndarray) -> list[float]:
    return [round(float(mean), 2) for mean in counts.mean(axis=0)]


def dispersion(counts: np.ndarray) -> float:
    """Shape of the gamma factor: the variance of a count is m + m^2 / shape (pooled over hours of ten and more)."""
    m, v = counts.mean(axis=0), counts.var(axis=0, ddof=1)
    busy = m >= 10
    return float((m[busy] ** 2).sum() / (v[busy] - m[busy]).clip(0).sum())


def busy_gaps(arrivals: np.ndarray) -> list[np.ndarray]:
    """Seconds between the arrivals of each busy hour."""
    hour = arrivals // HOUR_S
    inside = [arrivals[hour == one] for one in np.unique(hour)]
    return [np.diff(times) for times in inside if len(times) >= BUSY_HOUR]


def gap_cv(arrivals: np.ndarray) -> float:
    return float(np.mean([gaps.std() / gaps.mean() for gaps in busy_gaps(arrivals)]))


def gaps_goodness(arrivals: np.ndarray, cv: float) -> str:
    """Gaps of busy hours as shares of their hour's mean, against the gamma distribution that is drawn from."""
    gaps = np.concatenate([gaps / gaps.mean() for gaps in busy_gaps(arrivals)])
    distances = {
        name: ks_1samp(gaps, gamma(shape, scale=1 / shape).cdf).statistic
        for name, shape in (("gamma", cv**-2), ("exponential", 1.0))
    }
    told = ", ".join(f"{name} {distance:.3f}" for name, distance in distances.items())
    return f"Kolmogorov-Smirnov, {len(gaps)} gaps of busy hours: distance {told}\n"


def shares(values: object) -> dict[str, float]:
    counted = Counter(values)  # type: ignore[call-overload]
    total = sum(counted.values())
    common = sorted(value for value, count in counted.items() if count / total >= RARE)
    kept: Counter[int] = Counter()
    for value, count in counted.items():
        kept[min(common, key=lambda known: (abs(known - value), known))] += count
    return {str(value): round(kept[value] / total, 4) for value in common}


def goodness(counts: np.ndarray, shape: float) -> str:
    """Quantiles of the hourly counts of working days, the trace's and drawn, and Kolmogorov-Smirnov's test."""
    random = np.random.default_rng(0)
    rate = counts.mean(axis=0) * random.gamma(shape, 1 / shape, size=(DRAWN_DAYS, DAY_H))
    drawn = random.poisson(rate)
    at = (10, 25, 50, 75, 90, 99)
    lines = ["quantile  " + "".join(f"{q:>7} %" for q in at)]
    for name, sample in (("trace", counts), ("drawn", drawn)):
        lines.append(f"{name:<10}" + "".join(f"{value:>9.0f}" for value in np.percentile(sample, at)))
    busy = counts.mean(axis=0) >= 10  # the trace's nights are emptier than Poisson, which matters to nobody
    for name, hours in (("all hours", slice(None)), ("hours of 10 requests and more", busy)):
        test = ks_2samp(counts[:, hours].ravel(), drawn[:, hours].ravel())
        lines.append(f"Kolmogorov-Smirnov, {name}: distance {test.statistic:.3f}, p = {test.pvalue:.2f}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
