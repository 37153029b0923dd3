"""How good a filter is CLIP, and what do forks and early stopping cost? Against what the world says is true."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch.nn import functional as F
from tqdm.auto import tqdm

from ip2p_lib import filtering, images, records, storage
from ip2p_lib.backbone import Backbone, ClipEncoder, load_clip, load_judge, load_text_to_image
from ip2p_lib.evaluation import Measure, pairs_exact, share
from ip2p_lib.pairs import Critic, draw_candidates, pair_latents, rows_computed, synthesise
from ip2p_lib.presets import PairConfig, Preset
from ip2p_lib.quality.candidates import (
    Judged,
    area_under_curve,
    by_kind,
    by_quantile,
    judged_candidates,
    passing,
    precision_recall,
    stopped,
)
from ip2p_lib.similarity import image_features
from ip2p_lib.triplets import understood, world_triplets

SEED, TRIPLETS, CANDIDATES = 905, 192, 4
SWEEP = (0.0, 0.2, 0.4, 0.6, 0.8, 1.1)  # thresholds of prompt-to-prompt
SHIFT_BELOW = 0.2  # share of the candidates
PREVIEWS = ((0.5, 0.3), (0.75, 0.1))  # share of the steps, slack
PARTS = ("filter", "shift", "stop_after_hits", "give_up_after", "sweep", "forked", "preview")


def _rounded(measure: Measure) -> tuple[float, float, float]:
    return round(measure.value, 4), round(measure.low, 4), round(measure.high, 4)


class FilterStudy:
    """Candidates of held-out triplets, made once, made forked, and made with previews."""

    def __init__(self, preset: Preset, triplets: int = TRIPLETS) -> None:
        self.base: Backbone = load_text_to_image(preset)
        self.clip: ClipEncoder = load_clip(preset)
        self.judge = load_judge(preset)
        self.config = preset.filter
        self.pairs = replace(preset.pairs, candidates_per_triplet=CANDIDATES, seed=SEED)
        self.triplets = list(world_triplets(triplets, SEED))

    def made(self, config: PairConfig, name: str, critic: Critic | None = None) -> list[Judged]:
        """Candidates of a configuration with their scores and truths."""
        with TemporaryDirectory() as folder:
            steps = synthesise(self.triplets, self.base, config, Path(folder), critic=critic)
            with tqdm(total=len(self.triplets) * CANDIDATES, desc=name, unit="pair") as bar:
                for progress in steps:
                    bar.update(progress.candidates - bar.n)
            for _ in filtering.score(Path(folder), self.clip):
                pass
            return judged_candidates(Path(folder), self.triplets, self.judge)

    def plain(self, rows: Sequence[Judged]) -> dict[str, Any]:
        """What the filter does to candidates made one by one."""
        kept = passing(rows, self.config)
        exact = [r.exact for r in rows]
        return {
            "thresholds": asdict(self.config),
            "all": precision_recall(rows, kept),
            "by_kind": by_kind(rows, self.config),
            "auc": {n: round(area_under_curve([r.score[n] for r in rows], exact), 4) for n in records.SIMILARITIES},
            "by_quantile": {n: by_quantile(rows, n) for n in ("clip_sim_dir", "clip_sim_image")},
            "triplets_with_a_pair": self._covered(rows),
            "by_p2p_threshold": [self._between(rows, low, low + 0.2) for low in (0.1, 0.3, 0.5, 0.7)],
        }  # fmt: skip

    def shifted(self, rows: Sequence[Judged]) -> dict[str, Any]:
        """The same with a bound on how far the picture moves in the place of the direction's cosine."""
        shifts = [filtering.shift(r.score) for r in rows]
        bound = round(float(np.quantile(shifts, SHIFT_BELOW)), 4)
        config = replace(self.config, min_direction=-1, min_shift=bound)
        return {
            "below": SHIFT_BELOW,
            "min_shift": bound,
            "auc": round(area_under_curve(shifts, [r.exact for r in rows]), 4),
            "all": precision_recall(rows, passing(rows, config)),
            "by_kind": by_kind(rows, config),
        }

    def _between(self, rows: Sequence[Judged], low: float, high: float) -> dict[str, Any]:
        chosen = [r for r in rows if low <= r.threshold < high]
        return {
            "from": round(low, 1),
            "to": round(high, 1),
            "image_similarity": round(float(np.mean([r.score["clip_sim_image"] for r in chosen])), 4),
            **precision_recall(chosen, passing(chosen, self.config)),
        }

    def rows_of(self, config: PairConfig) -> int:
        """UNet rows that a configuration needs in one guidance half."""
        drawn = (draw_candidates(t, config) for t in self.triplets)
        return sum(rows_computed(c, config.num_inference_steps) for c in drawn)

    def swept(self) -> list[dict[str, Any]]:
        """Each of half the triplets at every threshold, with one noise and scale: what the dial does."""
        drawn = [draw_candidates(t, self.pairs)[0] for t in self.triplets[::2]]
        config = self.pairs
        found: dict[float, tuple[list[float], list[float]]] = {t: ([], []) for t in SWEEP}
        for one in tqdm(drawn, desc="sweep", unit="triplet"):
            forks = [replace(one, p2p_threshold=t) for t in SWEEP]
            latents = pair_latents(
                self.base, forks, num_inference_steps=config.num_inference_steps, size=config.resolution
            )
            before, after = (self.base.decode_latents(z) for z in latents)
            first, second = (
                image_features(self.clip, images.to_unit(p).clamp(0, 1)) for p in (before, after)
            )
            alike = F.cosine_similarity(first, second).tolist()
            exact = pairs_exact(self.judge, before, after, [understood(one.triplet)] * len(SWEEP))
            for threshold, right, cosine in zip(SWEEP, exact, alike, strict=True):
                found[threshold][0].append(right)
                found[threshold][1].append(cosine)
        return [
            {
                "threshold": t,
                "n": len(exact),
                **dict(zip(("exact", "low", "high"), _rounded(share(exact)), strict=True)),
                "image_similarity": round(float(np.mean(alike)), 4),
            }
            for t, (exact, alike) in found.items()
        ]

    def forked(self) -> dict[str, Any]:
        """As many candidates, but all thresholds of a triplet forked from one source."""
        config = replace(self.pairs, thresholds_per_seed=CANDIDATES)
        rows = self.made(config, "forked")
        return {
            "thresholds_per_seed": CANDIDATES,
            "rows_spared": round(1 - self.rows_of(config) / self.rows_of(self.pairs), 4),
            "triplets_with_a_pair": self._covered(rows),
            **precision_recall(rows, passing(rows, self.config)),
        }

    def _covered(self, rows: Sequence[Judged]) -> float:
        kept = {r.triplet for r in rows if filtering.passes(r.score, self.config)}
        return round(len(kept) / len(self.triplets), 4)

    def previewed(self, plain: Sequence[Judged], at: float, slack: float) -> dict[str, Any]:
        """Hopeless candidates dropped half-way; the others are the very ones of the plain run."""
        config = replace(self.pairs, preview_at=at, preview_slack=slack)
        rows = self.made(config, f"preview at {at}", filtering.ClipCritic(self.clip, self.config))
        passed, before = (sum(passing(r, self.config)) for r in (rows, plain))
        return {
            "preview_at": at,
            "slack": slack,
            "dropped": round(1 - len(rows) / len(plain), 4),
            "steps_spared": round((1 - len(rows) / len(plain)) * (1 - at), 4),
            "passing_lost": round(1 - passed / before, 4),
            **precision_recall(rows, passing(rows, self.config)),
        }


def study_filter(
    preset: Preset, path: Path, triplets: int = TRIPLETS, only: str | None = None
) -> Iterator[str]:
    """Measure, write `path`, and yield a line for each part; `only` one of them, beside what is on file.

    Raises:
        ValueError: there is no part of that name, or what is on file is about another number of triplets.
    """
    if only is not None and only not in PARTS:
        raise ValueError(f"--only must be one of {', '.join(PARTS)}; got {only!r}")
    known = storage.read_json(path) if only is not None and path.exists() else {}
    if known and known["triplets"] != triplets:
        raise ValueError(
            f"{path} is about {known['triplets']} triplets, not {triplets}; measure all parts again"
        )
    study = FilterStudy(preset, triplets)
    rows = study.made(study.pairs, "candidates")
    parts: dict[str, Callable[[], Any]] = {
        "filter": lambda: study.plain(rows),
        "shift": lambda: study.shifted(rows),
        "stop_after_hits": lambda: {n: stopped(rows, study.config, n, None) for n in (1, 2)},
        "give_up_after": lambda: {n: stopped(rows, study.config, None, n) for n in (1, 2)},
        "sweep": study.swept,
        "forked": study.forked,
        "preview": lambda: [study.previewed(rows, at, slack) for at, slack in PREVIEWS],
    }
    result: dict[str, Any] = {"triplets": triplets, "candidates_per_triplet": CANDIDATES, **known}
    for name in PARTS if only is None else (only,):
        result[name] = parts[name]()
        yield f"{name}: {result[name]}"
    if not known:
        result |= {"command": "ip2p study-filter", "commit": storage.commit()}
    else:
        result[f"{only}_commit"] = storage.commit()
    storage.write_json(path, result)
