"""How traces are asked of an endpoint: what is asked (it decides the answers) and how patiently."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import Field

from r1kit.settings.strict import Positive, Seconds, Settings


class SamplingSettings(Settings):
    """What decides an answer beside its prompt. A file of answers belongs to exactly one of these."""

    model: str = Field(min_length=1, description="The model's name at the endpoint.")
    temperature: Annotated[float, Field(ge=0)] = Field(default=0.6, description="DeepSeek-R1's advice.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(default=0.95, description="Nucleus sampling.")
    max_tokens: Positive | None = Field(
        default=16384, description="Longest answer, reasoning included; null: the endpoint's own limit."
    )
    seed: int | None = Field(
        default=0, ge=0, description="Each sample's seed follows from it; null sends none, for hosts without."
    )
    system: str = Field(default="", description="A system prompt; R1's authors advise against one.")
    instruction: str = Field(
        default="", description="Added to the problem when asking, left out of the trace that is kept."
    )
    extra: dict[str, Any] = Field(
        default_factory=dict, description="Further fields of the request: {top_k: 20}."
    )

    def identity(self) -> str:
        """12 hex digits over all fields: answers with another identity are answers to another question."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class PatienceSettings(Settings):
    """How an endpoint is asked; none of it changes an answer."""

    concurrency: Positive = Field(default=32, description="Requests in flight; a vLLM server takes 256.")
    timeout: Seconds = Field(default=1800, description="Seconds of a whole request.")
    silence: Seconds = Field(
        default=300, description="Seconds without a byte: the queue of a busy server before the first token."
    )
    attempts: Positive = Field(
        default=10, description="How often a request that fails is made: ten span about two minutes."
    )
    first_wait: Seconds = Field(
        default=1.0, description="Seconds before the second attempt, on average half."
    )
    longest_wait: Seconds = Field(
        default=60.0, description="What doubling the wait ends at; a `Retry-After` may be longer."
    )
    stream: bool = Field(
        default=True, description="Take answers piece by piece: silence is noticed, proxies cut no idle line."
    )


class GenerationSettings(Settings):
    """Everything `r1kit data generate` is told, but the prompts and where its files go."""

    url: str = Field(description="The endpoint up to its version: http://host:8000/v1")
    key_variable: str = Field(
        default="OPENAI_API_KEY",
        description="Environment variable that holds the API key; the key itself is written nowhere.",
    )
    samples: Positive = Field(default=1, description="Answers to each prompt.")
    sampling: SamplingSettings = Field(description="What is asked.")
    patience: PatienceSettings = Field(default_factory=PatienceSettings, description="How it is asked.")
