"""A study: systems swept along their dials over the same edits, and what is told of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ip2p_lib.baselines import System
from ip2p_lib.evaluation.agreement import Points
from ip2p_lib.evaluation.cases import Case
from ip2p_lib.evaluation.side_by_side import Made, best_dial, examples, good_and_bad, make, one_of_each_kind
from ip2p_lib.evaluation.sweep import Done, Instruments, read_points, sweep

SHOWN = 8  # edits of a sheet where no kinds are known


def dial_values(system: System, wanted: Sequence[float] | None, count: int | None) -> list[float]:
    """Where a system is measured: what was asked for, or some or all of its own values, evenly spread."""
    own = list(system.values)
    if wanted is not None and len(own) > 1:
        return list(wanted)
    number = min(count or len(own), len(own))
    return [own[round(i * (len(own) - 1) / max(1, number - 1))] for i in range(number)]


class Study:
    """Systems by name, the edits that they make, and the folder of what was measured."""

    def __init__(
        self,
        systems: dict[str, System],
        cases: Sequence[Case],
        instruments: Instruments,
        folder: Path,
        *,
        seed: int,
        counts: tuple[int, int],
    ) -> None:
        """`counts`: edits of a system, and of one that takes minutes for each."""
        self.systems, self.cases, self.instruments = systems, list(cases), instruments
        self.folder, self.seed, self._counts = folder, seed, counts
        self._measured: dict[str, list[float]] = {}

    def cases_of(self, name: str) -> list[Case]:
        """The edits that a system makes: fewer, as a rule, where it takes minutes for each."""
        return self.cases[: self._counts[self.systems[name].slow]]

    def sweep(self, name: str, dial: Sequence[float]) -> Iterator[Done]:
        """Measure one system, block by block; what is there already is not made again."""
        self._measured[name] = sorted(dial)
        cases, place = self.cases_of(name), self.folder / name
        yield from sweep(self.systems[name], dial, cases, place, self.instruments, seed=self.seed)

    def points(self) -> dict[str, Points]:
        """Rows of what was swept, by system and dial; the folder may hold more."""
        found = {name: read_points(self.folder / name) for name in self._measured}
        return {n: {v: found[n][v] for v in dial} for n, dial in self._measured.items()}

    def examples(self, points: dict[str, Points]) -> dict[str, Any]:
        """In words, what the sheets of examples show of each system that has a dial and edits to judge."""
        texts = {c.triplet.id: c.triplet.edit for c in self.cases}
        swept = {n: p for n, p in points.items() if len(self.systems[n].values) > 1}
        found = {n: {"of": self.systems[n].about, **examples(p, texts)} for n, p in swept.items()}
        return {n: sheet for n, sheet in found.items() if sheet["edits"]}

    def side_by_side(self, points: dict[str, Points], cases: Sequence[Case]) -> dict[str, list[Made]]:
        """The same edits by every system that edits the given pictures, each at the best of its points.

        Edits that one of them could not make are not shown.

        Args:
            cases: those of the study and maybe more, of which one of each kind is shown.
        """
        best = {
            n: best_dial(p) for n, p in points.items() if not self.systems[n].own_sources and n != "nothing"
        }
        faulty = {
            r.id for n, value in best.items() for r in points[n][value] if r.fault and r.clip_sim_dir is None
        }
        fine = [i for i, c in enumerate(cases) if c.triplet.id not in faulty]
        kinds = one_of_each_kind([cases[i] for i in fine])
        shown = [fine[k] for k in kinds] if len(kinds) > 1 else fine[:SHOWN]
        return {n: self._made(n, value, cases, shown) for n, value in best.items()}

    def good_and_bad(self, name: str, points: Points) -> tuple[list[Made], list[Made]]:
        """Exact and other edits of a system at its best point, with their pictures; none where no edit was judged."""
        best, places = best_dial(points), {c.triplet.id: i for i, c in enumerate(self.cases)}
        good, bad = good_and_bad(points[best])
        return tuple(self._made(name, best, self.cases, [places[i] for i in ids]) for ids in (good, bad))  # type: ignore[return-value]

    def _made(self, name: str, dial: float, cases: Sequence[Case], chosen: Sequence[int]) -> list[Made]:
        if not chosen:
            return []
        return make(self.systems[name], dial, cases, chosen, self.instruments, seed=self.seed)
