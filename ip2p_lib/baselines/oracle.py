"""Prompt-to-prompt with both captions: what our training pairs are made with, as an editor of its own pictures.

An oracle in two ways: it is told both captions, and it paints the source itself, so it never has to keep a
picture that it did not make. Its measures compare its own source with its own target.
"""

from collections.abc import Sequence

from PIL import Image

from ip2p_lib import storage
from ip2p_lib.backbone import Backbone, model_mark
from ip2p_lib.baselines.systems import Edited, System
from ip2p_lib.editing.large import decoded
from ip2p_lib.fitting import Room
from ip2p_lib.pairs import Candidate, blocks, pair_latents
from ip2p_lib.records import Triplet

THRESHOLDS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.1)


def prompt_to_prompt(
    base: Backbone,
    *,
    guidance_scale: float = 7.5,
    num_inference_steps: int = 100,
    batch_size: int = 32,
) -> System:
    """Both pictures from the captions; the dial is the share of steps with shared self-attention.

    Of the pictures given, only the width counts: the source is painted, square, at that size.
    """

    def run(
        pictures: Sequence[Image.Image], triplets: Sequence[Triplet], value: float, seeds: Sequence[int]
    ) -> list[Edited]:
        candidates = [
            Candidate(t, 0, seed, value, guidance_scale) for t, seed in zip(triplets, seeds, strict=True)
        ]
        size = {p.width for p in pictures}
        if len(size) != 1:
            raise ValueError(f"pictures of a batch must share one width, got {sorted(size)}")

        def painted(block: Sequence[Candidate]) -> list[Edited]:
            latents = pair_latents(
                base, block, num_inference_steps=num_inference_steps, size=pictures[0].width
            )
            before, after = (decoded(base, z) for z in latents)
            return [Edited(b, a) for a, b in zip(before, after, strict=True)]

        room = Room("pairs")
        parts = (p for block in blocks(candidates, batch_size) for p in room.parts(painted, block))
        return [one for part in parts for one in part]

    return System(
        name="prompt-to-prompt",
        about="prompt-to-prompt from both captions, on pictures it painted itself",
        dial="threshold",
        values=THRESHOLDS,
        run=run,
        mark=storage.fingerprint([model_mark(base), guidance_scale, num_inference_steps]),
        own_sources=True,
    )
