"""A language model of one's own as writer: batched, cached, and each row's draw keyed by its own seed."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, TopPLogitsWarper

from ip2p_lib.backbone import LanguageModel
from ip2p_lib.presets import WriteConfig
from ip2p_lib.triplets.prompts import PARTS, STOP, Completion, Request


class KeyedSampler(LogitsProcessor):
    """Sampling as a logits processor: each row picks its next token by its own stream of uniform draws.

    `generate` keeps doing the rest (cache, stop strings). A row's draw is found on the cumulative
    distribution, so it depends on the row's seed and logits alone, not on its batch or the device.

    Args:
        seeds: one per row.
        config: temperature, top_p, frequency penalty (subtracted from a token's logit once for each time
            it was already generated, as OpenAI's API defines it), and how many draws to prepare.
    """

    def __init__(self, seeds: Sequence[int], config: WriteConfig) -> None:
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        length = config.max_new_tokens
        self.draws = torch.stack([torch.rand(length, generator=g, dtype=torch.float64) for g in generators])
        self.config = config
        self.top_p = TopPLogitsWarper(config.top_p) if config.top_p < 1 else None
        self.prompt_length = -1
        self.log_probs: list[Tensor] = []  # of each step's tokens, (B,), at temperature 1 without penalty

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Leave one token per row at 0 and all others at minus infinity."""
        if self.prompt_length < 0:
            self.prompt_length = input_ids.shape[1]
        generated = input_ids[:, self.prompt_length :]
        scores = scores.float()
        sure = scores.log_softmax(dim=1)
        if self.config.frequency_penalty and generated.shape[1]:
            penalty = torch.full(generated.shape, self.config.frequency_penalty, device=scores.device)
            scores = scores.clone().scatter_add_(1, generated, -penalty)
        picked = self._pick(input_ids, scores, generated.shape[1])
        self.log_probs.append(sure.gather(1, picked[:, None])[:, 0])
        return torch.full_like(scores, -torch.inf).scatter_(1, picked[:, None], 0.0)

    def _pick(self, input_ids: Tensor, scores: Tensor, step: int) -> Tensor:
        if self.config.temperature == 0:
            return scores.argmax(dim=1)
        scores = scores / self.config.temperature
        if self.top_p is not None:
            scores = self.top_p(input_ids, scores)
        exact = torch.float32 if scores.device.type == "mps" else torch.float64
        cumulative = scores.to(exact).softmax(dim=1).cumsum(dim=1)
        draw = self.draws[:, step].to(scores.device, exact) * cumulative[:, -1]
        return (cumulative <= draw[:, None]).sum(dim=1).clamp(max=scores.shape[1] - 1)


class LocalWriter:
    """Continue prompts with a transformers model, a whole batch at a time.

    Raises:
        ValueError: a prompt and its continuation do not fit into the model's context.
    """

    def __init__(self, language: LanguageModel, config: WriteConfig) -> None:
        self.language, self.config = language, config
        self.generation = GenerationConfig(
            do_sample=False,
            max_new_tokens=config.max_new_tokens,
            pad_token_id=language.tokenizer.pad_token_id,
            eos_token_id=language.tokenizer.eos_token_id,
            stop_strings=[STOP],
        )

    @torch.no_grad()
    def __call__(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order."""
        tokenizer, model = self.language.tokenizer, self.language.model
        batch = tokenizer([r.prompt for r in requests], padding=True, return_tensors="pt").to(model.device)
        length = batch.input_ids.shape[1]
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit and length + self.config.max_new_tokens > limit:
            raise ValueError(
                f"a prompt and its continuation must fit in {limit} tokens for {self.language.name}, got"
                f" {length} + {self.config.max_new_tokens}; show fewer examples or lower max_new_tokens"
            )
        sampler = KeyedSampler([r.seed for r in requests], self.config)
        written = model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            generation_config=self.generation,
            logits_processor=LogitsProcessorList([sampler]),
            tokenizer=tokenizer,
        )[:, length:]
        prompts = batch.attention_mask.sum(dim=1).tolist()
        log_probs = torch.stack(sampler.log_probs, dim=1).tolist()
        return [self._completion(*row) for row in zip(written, prompts, log_probs, strict=True)]

    def _completion(self, tokens: Tensor, prompt_tokens: int, log_probs: list[float]) -> Completion:
        """Text of a row. What follows the stop is padding; a row without it that is full was cut off."""
        tokenizer = self.language.tokenizer
        ended = (tokens == tokenizer.eos_token_id).any().item()
        text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        written = (tokens != tokenizer.pad_token_id).nonzero()
        count = int(written.max()) + 1 if len(written) else 0
        finished = bool(ended) or STOP in text
        start = self._caption_start(tokens[:count])
        caption, instruction = min(log_probs[start:count], default=None), min(log_probs[:start], default=None)
        return Completion(text, finished, prompt_tokens, count, caption, instruction)

    def _caption_start(self, tokens: Tensor) -> int:
        """Number of tokens up to the end of the separator; all of them if there is none."""
        low, high = 0, len(tokens)
        while low < high:
            middle = (low + high) // 2
            if PARTS in self.language.tokenizer.decode(tokens[:middle]):
                high = middle
            else:
                low = middle + 1
        return low
