"""The trade-off curve: how much of the picture is kept for how much of the wanted change, and whose is higher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ip2p_lib.evaluation.intervals import Measure
from ip2p_lib.evaluation.rows import EditRow

Array = NDArray[np.float64]
DIRECTION, IMAGE = "clip_sim_dir", "clip_sim_image"
RELEASED = ("released_sim_dir", "released_sim_image")
TRUTH = ("requested", "kept_outside")  # the same two questions, answered by judge and exact answer


@dataclass(frozen=True, slots=True)
class Curve:
    """A system's points: both similarities of every edit at every value of its dial, in the dial's order."""

    name: str
    dial: tuple[float, ...]  # (P,)
    ids: tuple[str, ...]  # (N,)
    direction: Array  # (P, N)
    image: Array  # (P, N)

    @classmethod
    def of(
        cls, name: str, points: Mapping[float, Sequence[EditRow]], axes: tuple[str, str] = (DIRECTION, IMAGE)
    ) -> "Curve":
        """From rows by the dial's value. Only edits that were measured at every point count.

        Raises:
            ValueError: there is no such edit.
        """
        tables = [
            {
                r.id: (getattr(r, axes[0]), getattr(r, axes[1]))
                for r in rows
                if None not in (getattr(r, axes[0]), getattr(r, axes[1]))
            }
            for rows in points.values()
        ]
        ids = [i for i in tables[0] if all(i in t for t in tables)] if tables else []
        if not ids:
            raise ValueError(
                f"{name}: a curve needs at least one edit that was measured at every point, has none"
            )
        values = np.array([[t[i] for i in ids] for t in tables], dtype=np.float64)  # (P, N, 2)
        return cls(name, tuple(points), tuple(ids), values[:, :, 0], values[:, :, 1])

    def only(self, ids: Sequence[str]) -> "Curve":
        """The curve over some of its edits, in the order given."""
        place = {one: i for i, one in enumerate(self.ids)}
        chosen = [place[i] for i in ids]
        return replace(self, ids=tuple(ids), direction=self.direction[:, chosen], image=self.image[:, chosen])

    def means(self, picks: NDArray[np.int64] | None = None) -> tuple[Array, Array]:
        """Mean direction and image similarity, (P,) each, or (draws, P) for picks (draws, N) of its edits."""
        if picks is None:
            return self.direction.mean(1), self.image.mean(1)
        counts = np.stack([np.bincount(p, minlength=len(self.ids)) for p in picks]) / picks.shape[1]
        return counts @ self.direction.T, counts @ self.image.T

    @property
    def reach(self) -> tuple[float, float]:
        """Lowest and highest mean direction."""
        direction, _ = self.means()
        return float(direction.min()), float(direction.max())


def image_at(direction: Array, image: Array, targets: Array) -> Array:
    """Image similarity that a curve offers at given directions: the best of its segments that pass there.

    Between neighbouring values of the dial the curve is taken for straight. Where no segment passes, the
    nearest point counts.

    Args:
        direction, image: (..., P), in the dial's order.
        targets: (T,).

    Returns:
        (..., T).
    """
    x0, x1 = direction[..., :-1, None], direction[..., 1:, None]
    y0, y1 = image[..., :-1, None], image[..., 1:, None]
    width = np.where(x1 == x0, 1.0, x1 - x0)
    passes = (np.minimum(x0, x1) <= targets) & (targets <= np.maximum(x0, x1))
    heights = np.where(x1 == x0, np.maximum(y0, y1), y0 + (targets - x0) / width * (y1 - y0))
    best = np.where(passes, heights, -np.inf).max(axis=-2, initial=-np.inf)
    nearest = np.abs(direction[..., :, None] - targets).argmin(axis=-2)
    return np.where(np.isfinite(best), best, np.take_along_axis(image, nearest, axis=-1))


@dataclass(frozen=True, slots=True)
class AtDirection:
    """Two curves at one direction: image similarity of each, and their difference, with intervals."""

    direction: float
    ours: Measure
    theirs: Measure
    difference: Measure  # over the same resampled edits

    @property
    def above(self) -> bool:
        """Whether ours lies above, and the two intervals do not overlap."""
        return self.ours.low > self.theirs.high


def on_common_edits(ours: Curve, theirs: Curve) -> tuple[Curve, Curve]:
    """Both curves over the edits that both have.

    Raises:
        ValueError: there are none.
    """
    known = set(theirs.ids)
    ids = [i for i in ours.ids if i in known]
    if not ids:
        raise ValueError(f"{ours.name} and {theirs.name} must have edits in common to be compared, have none")
    return ours.only(ids), theirs.only(ids)


def compare(
    ours: Curve, theirs: Curve, *, count: int = 5, draws: int = 2_000, seed: int = 0
) -> list[AtDirection]:
    """Both curves at `count` directions that both reach, evenly inside what they have in common.

    Edits are resampled, the same for both curves and for all their points, since all were made from the same
    pictures with the same noise. Empty if no direction is common to both, or a system has but one point.

    Raises:
        ValueError: the two have no edit in common.
    """
    ours, theirs = on_common_edits(ours, theirs)
    low = max(ours.reach[0], theirs.reach[0])
    high = min(ours.reach[1], theirs.reach[1])
    if low >= high or min(len(ours.dial), len(theirs.dial)) < 2:
        return []
    targets = np.linspace(low, high, count + 2)[1:-1]
    picks = np.random.default_rng(seed).integers(0, len(ours.ids), (draws, len(ours.ids)))
    value = [image_at(*c.means(), targets) for c in (ours, theirs)]  # (T,)
    drawn = [image_at(*c.means(picks), targets) for c in (ours, theirs)]  # (draws, T)

    def interval(at: int, one: Array, many: Array) -> Measure:
        ends = np.quantile(many[:, at], (0.025, 0.975))
        return Measure(float(one[at]), float(ends[0]), float(ends[1]), len(ours.ids))

    return [
        AtDirection(
            float(t),
            interval(i, value[0], drawn[0]),
            interval(i, value[1], drawn[1]),
            interval(i, value[0] - value[1], drawn[0] - drawn[1]),
        )
        for i, t in enumerate(targets)
    ]
