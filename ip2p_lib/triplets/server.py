"""Any OpenAI-compatible server as writer: a hosted model, vLLM, llama.cpp, or `transformers serve`."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Event, Lock
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai

from ip2p_lib.presets import WriteConfig
from ip2p_lib.triplets.prompts import CHAT_SYSTEM, STOP, Completion, Request, prompt_for

ENDPOINTS = ("completions", "chat")
HARMLESS = "a photograph of a cat on a sofa"
REFUSALS = (400, 413, 422)  # of a text, unless every text gets them
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where the server is and how patiently it is asked.

    Raises:
        ValueError: a value is out of its range.
    """

    url: str  # up to and including /v1
    model: str
    endpoint: str = "completions"  # or "chat", for servers that offer nothing else
    concurrency: int = 8
    retries: int = 6  # after rate limits, server errors, time-outs and broken answers
    timeout: float = 120.0  # seconds of silence before an answer counts as lost
    longest_wait: float = 8.0  # seconds between two tries, doubled from 0.5 up to this; more if asked for
    key_variable: str = "OPENAI_API_KEY"  # environment variable with the key, if the server wants one

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            raise ValueError(
                f"ServerConfig.url must be an address such as http://localhost:8000/v1, got {self.url!r}"
            )
        if self.endpoint not in ENDPOINTS:
            raise ValueError(
                f"ServerConfig.endpoint must be one of {', '.join(ENDPOINTS)}; got {self.endpoint!r}"
            )
        if self.concurrency < 1 or self.retries < 0:
            raise ValueError(
                "ServerConfig.concurrency must be at least 1 and retries at least 0, got"
                f" {self.concurrency} and {self.retries}"
            )
        if not (self.timeout > 0 and self.longest_wait >= 0):
            raise ValueError(
                "ServerConfig.timeout must be above 0 and longest_wait at least 0, got"
                f" {self.timeout} and {self.longest_wait}"
            )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no port
        return False


class MalformedError(ValueError):
    """An answer that is no completion at all; asking again may help."""


class ServerWriter:
    """Continue prompts by asking a server, several at a time; answers come back in order.

    An answer counts once it is whole: rate limits, errors, time-outs and broken answers are asked again
    with growing pauses, and when patience ends the run stops, so that nothing is invented or left out.
    A text that the server refuses, though it answers a harmless one, comes back as refused.

    Raises:
        OSError: the server cannot be reached, refuses, or keeps failing.
    """

    def __init__(self, server: ServerConfig, config: WriteConfig) -> None:
        self.server, self.config = server, config
        self.client = openai.OpenAI(
            base_url=server.url,
            api_key=os.environ.get(server.key_variable, "").strip() or "none",
            timeout=server.timeout,
            max_retries=0,  # one place decides about patience: `_patiently`
        )
        self.lock, self.answers = Lock(), False  # whether a harmless text was answered

    def __call__(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order."""
        stopped = Event()
        pool = ThreadPoolExecutor(self.server.concurrency)
        try:
            asked = [pool.submit(self._write, r, stopped) for r in requests]
            for first in wait(asked, return_when=FIRST_EXCEPTION).done:
                first.result()
            return [a.result() for a in asked]
        finally:
            stopped.set()  # after a failure or Ctrl-C nothing is asked again
            pool.shutdown(wait=False, cancel_futures=True)

    def _write(self, request: Request, stopped: Event) -> Completion:
        try:
            return self._patiently(partial(self._ask, request), stopped)
        except OSError as error:
            if getattr(error.__cause__, "status_code", None) in REFUSALS and self._answers_others():
                return Completion("", finished=False, refused=True)
            raise

    def _answers_others(self) -> bool:
        with self.lock:
            if not self.answers:
                with suppress(openai.APIError, MalformedError):
                    self._ask(Request(prompt_for(HARMLESS), 0))
                    self.answers = True
            return self.answers

    def _patiently(self, ask: Callable[[], Answer], stopped: Event) -> Answer:
        pause = min(0.5, self.server.longest_wait)
        for tries_left in range(self.server.retries, -1, -1):
            try:
                return ask()
            except (openai.APIError, MalformedError) as error:
                over = tries_left == 0 or not _may_pass(error)
                if over or stopped.wait(_wanted_pause(error, pause)):
                    raise OSError(
                        f"the server at {self.server.url} must answer for {self.server.model}:"
                        f" {self._told(error)}; what is written is kept, run the same command again to go on"
                    ) from error
                pause = min(2 * pause, self.server.longest_wait)
        raise AssertionError("the last try returns or raises")

    def _told(self, error: Exception) -> str:
        """An error in one line."""
        line = " ".join(str(error).split())[:200] or type(error).__name__
        if getattr(error, "status_code", None) in (401, 403):
            line += f" (its key is read from the variable {self.server.key_variable})"
        if isinstance(error, openai.APIConnectionError) and error.__cause__:
            line += f" ({type(error.__cause__).__name__})"
        return line

    def _ask(self, request: Request) -> Completion:
        shared: dict[str, Any] = {
            "model": self.server.model,
            "temperature": self.config.temperature,
            "top_p": self.config.top_p,
            "frequency_penalty": self.config.frequency_penalty,
            "seed": request.seed % 2**31,
            "stop": [STOP],
            "max_tokens": self.config.max_new_tokens,  # max_completion_tokens is unknown to many servers
        }
        if self.server.endpoint == "completions":
            answer = self.client.completions.with_raw_response.create(prompt=request.prompt, **shared)
        else:
            messages: Any = [
                {"role": "system", "content": CHAT_SYSTEM},
                {"role": "user", "content": request.prompt},
            ]
            answer = self.client.chat.completions.with_raw_response.create(messages=messages, **shared)
        return _completion(answer.content)

    def moderate(self, texts: Sequence[str], model: str = "omni-moderation-latest") -> list[bool]:
        """Which texts the server's moderation endpoint flags; as patient as the questions."""
        return self._patiently(partial(self._flags, list(texts), model), Event()) if texts else []

    def _flags(self, texts: list[str], model: str) -> list[bool]:
        answer = self.client.moderations.with_raw_response.create(model=model, input=texts).content
        try:
            flags = [result["flagged"] for result in json.loads(answer)["results"]]
        except (ValueError, LookupError, TypeError) as error:
            raise MalformedError(f"no moderation: {_excerpt(answer)}") from error
        if len(flags) != len(texts) or not all(isinstance(f, bool) for f in flags):
            raise MalformedError(f"no moderation of {len(texts)} texts: {_excerpt(answer)}")
        return flags


def _completion(answer: bytes) -> Completion:
    """Read an answer of either endpoint. A chat's message may lack text: a refusal, or all thought.

    Raises:
        MalformedError: it is no JSON, has no choice, or the choice has no text.
    """
    try:
        whole = json.loads(answer)
        choice = whole["choices"][0]
        reason, chat = choice.get("finish_reason"), "message" in choice
        text = choice["message"].get("content") if chat else choice["text"]
        if chat and text is None and reason:
            text = ""
        text = text.encode("utf-8", "replace").decode()  # half a character can neither be sent nor stored
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise MalformedError(f"no completion: {_excerpt(answer)}") from error
    usage = whole.get("usage")
    return Completion(
        text, reason == "stop", _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    )


def _count(usage: Any, name: str) -> int:
    """A number of tokens, 0 where the server does not count."""
    found = usage.get(name) if isinstance(usage, dict) else 0
    return found if isinstance(found, int) else 0


def _excerpt(answer: bytes) -> str:
    return answer[:100].decode("utf-8", "replace") or "nothing"


def _may_pass(error: Exception) -> bool:
    """Whether asking again may help: not for a wrong key, a wrong model, or a request that is refused."""
    status = getattr(error, "status_code", None)
    return status is None or status in (408, 409, 429) or status >= 500


def _wanted_pause(error: Exception, pause: float) -> float:
    """What the server asks for in Retry-After, else ours; never more than a minute."""
    response = getattr(error, "response", None)
    try:
        return min(60.0, max(pause, float(response.headers["retry-after"])))  # type: ignore[union-attr]
    except (AttributeError, KeyError, ValueError, TypeError):
        return pause


def cost(prompt_tokens: int, completion_tokens: int, prices: tuple[float, float]) -> float:
    """Price of tokens, for (prompt, completion) prices per million tokens."""
    return (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6
