"""A bound on the sum of latencies by prices: Lagrange multipliers for the GPUs of every moment.

Let GPU time cost p(t) a second, whatever p >= 0. Then

    sum of latencies  >=  sum_i min over schedules of i alone (latency_i + its price)  -  N * integral of p

as no schedule uses more than N GPUs at a time. Each request's problem is small. Denoising lies within [r + before, c],
and c plus what follows is the end. For a given c the cheapest way is a linear program whose dual has one variable, m,
the worth of the whole denoising:

    cheapest(c)  >=  m - integral over [r + before, c] of max_k (m rate_k - p(t) k)+     for every m

Prices are constant within a cell of a grid, so this is linear in c within it, and the least over a cell is at one of
its ends. All is valid for any prices and any m; good ones make the bound tight. Prices are found by ascent: they rise
where the requests, each for itself, would use more than N GPUs, and fall elsewhere (Adam's step rule), on ever finer
grids. For Lagrangian bounds see Fisher, The Lagrangian Relaxation Method, Management Science 27 (1981).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gfdit.core.view import F8, I8
from gfdit.sim.jobs import Job, useful_degrees

LEVELS = ((250, 80, 1.2), (1000, 80, 0.4))  # cells of the grid, steps of the ascent, its first rate
WORTHS = 40  # values of m during the ascent
LAST_WORTHS = 600  # and for the bound that is told
WINDOW = 60.0  # times the time alone: later ends are bounded by its end
HORIZON = 1.2  # of a bound on the makespan: prices are 0 behind it
MAX_WORK = 3_000_000_000  # table entries looked up by the ascent: a quarter of a minute
SMOOTH, SCALE_SMOOTH, FLOOR, LAST_RATE = 0.8, 0.95, 0.05, 0.03  # of Adam's rule


def priced_latency(jobs: Sequence[Job], gpus: int, enough: float = 0.0) -> float:
    """Seconds: no schedule that completes all has a smaller sum of latencies. `enough`: a bound that is known already;
    where requests are too many for a closer look, it is returned."""
    if not jobs or min(job.gpu_s for job in jobs) <= 0:
        return enough
    horizon = _horizon(jobs, gpus)
    prices, cells, left = np.zeros(1), 1, MAX_WORK
    for finer, steps, rate in LEVELS:
        market = _Market(jobs, gpus, horizon, finer, WORTHS)
        steps = min(steps, left // market.work)
        if steps < 1:
            break
        left -= steps * market.work
        cells, prices = finer, market.ascend(_refined(prices, finer), steps, rate)
    return max(enough, _Market(jobs, gpus, horizon, cells, LAST_WORTHS).evaluate(prices)[0])


def _horizon(jobs: Sequence[Job], gpus: int) -> float:
    last = max(job.release_s + 2 * job.alone_s for job in jobs)
    busy = min(job.release_s for job in jobs) + sum(job.gpu_s for job in jobs) / gpus
    return HORIZON * max(last, busy)


def _refined(prices: F8, cells: int) -> F8:
    """The same course on a finer grid."""
    old, new = ((np.arange(n) + 0.5) / n for n in (len(prices), cells))
    return np.interp(new, old, prices)


@dataclass(frozen=True, slots=True)
class _Group:
    """Requests that look alike and arrive in the same cell: the first one stands for all, `waited_s` in all earlier
    than they do. From cell `first` to `last`, where the window ends."""

    release_s: float
    count: int
    waited_s: float
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Shape:
    """`ranks[K]` and `rates[K]` (of the whole denoising a second), idling first."""

    ranks: F8
    rates: F8
    before_s: float
    after_s: float
    groups: tuple[_Group, ...]

    def worths(self, highest_price: float, count: int) -> F8:
        """Values of m, denser than that would be no use: a second later must be worth a second at the best end, which
        is so between m = time alone, for no price, and this for the highest."""
        ranks, rates = self.ranks[1:], self.rates[1:]
        return np.geomspace(1 / rates.max(), 1.02 * ((1 + highest_price * ranks) / rates).min(), count)


@dataclass(frozen=True, slots=True)
class _Table:
    """What one shape does at these prices, for every worth m of its denoising: `worths[M]`; the degree's column
    `choice[M, cells]`, and what a second of it is worth, `gain[M, cells]`; up to each edge `earned[M, cells + 1]`."""

    worths: F8
    choice: I8
    gain: F8
    earned: F8


class _Market:
    """The bound as a function of the prices on one grid."""

    def __init__(self, jobs: Sequence[Job], gpus: int, horizon: float, cells: int, worths: int) -> None:
        self._gpus = gpus
        self._cells = cells
        self._worths = worths
        self._width = horizon / cells
        self._edges = np.linspace(0.0, horizon, cells + 1)
        alike: dict[tuple[object, ...], list[Job]] = defaultdict(list)
        for job in jobs:
            alike[job.steps, job.step_s, job.auxiliary_s, job.before_s].append(job)
        self._shapes = [self._shape(found) for found in alike.values()]

    @property
    def work(self) -> int:
        """Entries looked up by one evaluation."""
        return sum(
            self._worths * (4 * self._cells + sum(group.last - group.first + 1 for group in shape.groups))
            for shape in self._shapes
        )

    def _shape(self, jobs: Sequence[Job]) -> _Shape:
        one = jobs[0]
        degrees = useful_degrees(one.step_s)
        rates = np.array([0.0, *(rate / one.steps for _, rate in degrees)])
        alone = 1.0 / rates.max()
        arrived: dict[int, list[float]] = defaultdict(list)
        for job in jobs:
            arrived[min(self._cells - 1, int((job.release_s + job.before_s) / self._width))].append(job.release_s)
        window = int((WINDOW * alone + one.auxiliary_s) / self._width) + 2
        groups = [
            _Group(min(at), len(at), sum(at) - len(at) * min(at), first, min(self._cells, first + window))
            for first, at in sorted(arrived.items())
        ]
        return _Shape(
            np.array([0.0, *(float(degree) for degree, _ in degrees)]),
            rates,
            one.before_s,
            one.auxiliary_s - one.before_s,
            tuple(groups),
        )

    def ascend(self, prices: F8, steps: int, rate: float) -> F8:
        """The prices of the best bound that was met."""
        best, best_prices = -np.inf, prices
        pace, scale = np.zeros(self._cells), np.zeros(self._cells)
        for step in range(steps):
            bound, excess = self.evaluate(prices)
            if bound > best:
                best, best_prices = bound, prices
            pace = SMOOTH * pace + (1 - SMOOTH) * excess
            scale = SCALE_SMOOTH * scale + (1 - SCALE_SMOOTH) * excess * excess
            now = rate * (1.0 - step / steps + LAST_RATE)
            prices = np.maximum(0.0, prices + now * pace / (np.sqrt(scale) + FLOOR))
        return best_prices

    def evaluate(self, prices: F8) -> tuple[float, F8]:
        """The bound, and by cell how far (in shares of N) the requests' own best schedules ask for too much."""
        bound = -self._gpus * self._width * float(prices.sum())
        used = np.zeros(self._cells)
        for shape in self._shapes:
            table = self._table(shape, prices)
            for group in shape.groups:
                bound += self._cheapest(shape, group, prices, table, used)
        return bound, used / (self._gpus * self._width) - 1.0

    def _table(self, shape: _Shape, prices: F8) -> _Table:
        worths = shape.worths(float(prices.max()), self._worths)
        gains = worths[:, None, None] * shape.rates - prices[None, :, None] * shape.ranks  # [worth, cell, degree]
        choice = gains.argmax(axis=2)
        gain = np.take_along_axis(gains, choice[:, :, None], axis=2)[:, :, 0]
        earned = np.concatenate([np.zeros((len(gain), 1)), np.cumsum(gain * self._width, axis=1)], axis=1)
        return _Table(worths, choice, gain, earned)

    def _cheapest(self, shape: _Shape, group: _Group, prices: F8, table: _Table, used: F8) -> float:
        """Latency and price of a group's requests, each at its cheapest; what they use is added to `used`."""
        first, last = group.first, group.last
        begin = max(group.release_s + shape.before_s, float(self._edges[first]))
        ends = self._edges[first : last + 1].copy()
        ends[0] = begin
        earned = table.earned[:, first : last + 1] - table.earned[:, first, None]
        earned -= table.gain[:, first, None] * (begin - self._edges[first])
        earned[:, 0] = 0.0
        spent = (ends - group.release_s + shape.after_s) + table.worths[:, None] - earned  # [worth, edge]
        least = np.minimum(spent[:, :-1], spent[:, 1:])
        cells = least.max(axis=0) + self._other_stages(shape, group, prices)
        cell = int(cells.argmin())
        beyond = float(ends[-1]) - group.release_s + shape.after_s
        if beyond <= cells[cell]:
            return group.count * beyond - group.waited_s
        worth = int(least[:, cell].argmax())
        stop = cell + int(spent[worth, cell + 1] < spent[worth, cell])
        usage = _usage(shape, table.choice[:, first : first + stop], worth, np.diff(ends[: stop + 1]))
        used[first : first + stop] += group.count * usage
        return group.count * float(cells[cell]) - group.waited_s

    def _other_stages(self, shape: _Shape, group: _Group, prices: F8) -> F8:
        """What the other stages cost at the least if denoising ends in each cell: one rank, in the cheapest cells
        between arrival and end."""
        arrival = min(self._cells - 1, int(group.release_s / self._width))
        behind = int(shape.after_s / self._width) + 1
        reach = np.concatenate([prices[arrival : group.last + behind], np.zeros(behind + 1)])
        cheapest = np.minimum.accumulate(reach)
        offset = group.first - arrival + behind
        found: F8 = cheapest[offset : offset + group.last - group.first]
        return (shape.before_s + shape.after_s) * found


def _usage(shape: _Shape, choice: I8, worth: int, seconds: F8) -> F8:
    """GPU-seconds by cell of a schedule that does the whole denoising: that of `worth` does too much or too little, so
    it is mixed with the nearest one that errs the other way."""
    done = float(shape.rates[choice[worth]] @ seconds)
    mine = shape.ranks[choice[worth]] * seconds
    step = -1 if done > 1.0 else 1
    other = worth + step
    while 0 <= other < len(choice):
        theirs = float(shape.rates[choice[other]] @ seconds)
        if (theirs - 1.0) * (done - 1.0) <= 0.0 and theirs != done:
            share = (1.0 - theirs) / (done - theirs)
            mixed: F8 = share * mine + (1.0 - share) * shape.ranks[choice[other]] * seconds
            return mixed
        other += step
    found: F8 = mine
    return found
