"""How many tokens a conversation takes, counted in processes that never load transformers.

The tokenizer goes to the workers as its JSON, which the `tokenizers` library reads alone: transformers would
cost each of a hundred workers 400 MB. What the chat template adds is measured once, here, on a conversation
of known length.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from r1kit.data.format import CHAT_TEMPLATE

BYTES_PER_TOKEN = 3.49
"""Mixture-of-Thoughts: 7.06 GB over the 2.02 billion tokens that the guide packed (`trace_lengths`)."""
PROBE = "x"


@dataclass(frozen=True)
class TokenCounter:
    """Counts tokens, or estimates them from bytes where no tokenizer could be loaded.

    Attributes:
        model: whose tokenizer it is.
        json: the tokenizer, "" for the estimate.
        asking: tokens that the template adds around a question, the opening of the answer included.
        answering: tokens that it adds around a question and its answer.
    """

    model: str
    json: str = ""
    asking: int = 9
    answering: int = 11
    why: str = ""

    @property
    def counted(self) -> bool:
        """Whether tokens are counted, not estimated."""
        return bool(self.json)

    def asked(self, question: str) -> int:
        """Tokens of a prompt: the question in the chat template."""
        return self._tokens([question]) + self.asking

    def told(self, messages: Sequence[Mapping[str, str]]) -> int:
        """Tokens of a whole conversation in the chat template."""
        return self._tokens([turn["content"] for turn in messages]) + self.answering

    def _tokens(self, texts: list[str]) -> int:
        if not self.json:
            return round(sum(len(text.encode()) for text in texts) / BYTES_PER_TOKEN)
        return sum(len(_loaded(self.json).encode(text, add_special_tokens=False).ids) for text in texts)


def token_counter(model: str) -> TokenCounter:
    """The counter of a model's tokenizer: a folder, or an id of the hub. Never fails: it then estimates."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return TokenCounter(model, why=reason)
    template = tokenizer.chat_template or CHAT_TEMPLATE
    probe = len(tokenizer.encode(PROBE, add_special_tokens=False))
    asked = [{"role": "user", "content": PROBE}]

    def length(messages: list[dict[str, str]], **options: bool) -> int:
        text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options)
        return len(tokenizer.encode(text, add_special_tokens=False))

    asking = length(asked, add_generation_prompt=True) - probe
    answering = length([*asked, {"role": "assistant", "content": PROBE}]) - 2 * probe
    return TokenCounter(model, tokenizer.backend_tokenizer.to_str(), asking, answering)


@functools.cache
def _loaded(json: str):
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json)
