"""A byte-level BPE tokenizer trained on the corpus, in the shape of Qwen's.

It splits text with Qwen2's own expression, and for a reason: next to a Qwen2 `config.json`, transformers 5
rebuilds any tokenizer as `Qwen2Tokenizer` with that expression, whatever `tokenizer.json` says. With another
one, the reloaded tokenizer cut numbers differently from the one trained with and accuracy fell from 0.42 to
0.07 (2026-11-23).

It departs from Qwen in two ways: a digit may carry the space before it (``" 7"`` is one token, ``" 12"`` is
two), which shortens a trace by a fifth, and besides ``<think>`` the answer tags are single tokens as well.
All of these are *added* but not *special* tokens, as the tags are in Qwen3: decoding with
``skip_special_tokens=True`` keeps them.

How many tokens a conversation takes, counted in processes that never load transformers.

The tokenizer goes to the workers as its JSON, which the `tokenizers` library reads alone: transformers would
cost each of a hundred workers 400 MB. What the chat template adds is measured once, here, on a conversation
of known length.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from r1kit.data.format import CHAT_TEMPLATE, PAD, TAGS, TURN_END, TURN_START

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What may become one token: a word with the sign or space before it, a digit, a run of signs, white space.
"""

SPACED_DIGITS = [f" {digit}" for digit in range(10)]

ROLES = ["user", "assistant"] * 500
"""Read along with the texts, so that the chat turns' roles become single tokens as in Qwen's vocabulary."""


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = 448) -> PreTrainedTokenizerFast:
    """Train on ``texts`` (corpus documents and some traces) and return it with chat template, end and padding
    tokens.

    All 256 bytes are in the vocabulary, so any text can be encoded. Raises ValueError if ``vocabulary_size``
    leaves no room for merges.
    """
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    special = [PAD, TURN_START, TURN_END]
    added = [*TAGS, *SPACED_DIGITS]
    smallest = 256 + len(special) + len(added)
    if vocabulary_size <= smallest:
        raise ValueError(
            f"vocabulary_size must be above {smallest} (bytes and fixed tokens), found {vocabulary_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(added),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain(texts, ROLES), trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in added])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=PAD,
        additional_special_tokens=[TURN_START],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


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
