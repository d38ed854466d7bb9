"""The embedded world's tokenizer, and counting the tokens of real data without loading transformers.

`train_tokenizer` trains a byte-level BPE tokenizer in the shape of Qwen's. It splits text with Qwen2's own
expression for a reason: next to a Qwen2 `config.json`, transformers 5 rebuilds any tokenizer as
`Qwen2Tokenizer` with that expression, whatever `tokenizer.json` says. With another expression, the reloaded
tokenizer split numbers differently from the one in training, and accuracy fell from 0.42 to 0.07
(2026-11-23).

It departs from Qwen in two ways: a digit may include the space before it (``" 7"`` is one token, ``" 12"`` is
two), which shortens a trace by a fifth, and the answer tags are single tokens, not only ``<think>``. All of
these are *added* but not *special* tokens, as the tags are in Qwen3: decoding with
``skip_special_tokens=True`` keeps them.

`token_counter` makes a small picklable counter for worker processes. They get the tokenizer as JSON, which
the `tokenizers` library reads without transformers (400 MB per worker). What the chat template adds is
measured once, on a conversation of known length.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from r1kit.data.format import CHAT_TEMPLATE, PAD, TAGS, TURN_END, TURN_START, user_prompt

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""A token lies within one of these: a word with the sign or space before it, a digit, signs, white space."""
SPACED_DIGITS = [f" {digit}" for digit in range(10)]
ROLES = ["user", "assistant"] * 500
"""Read along with the texts, so that the roles of chat turns become single tokens as in Qwen's vocabulary."""

BYTES_PER_TOKEN = 3.49
"""Mixture-of-Thoughts: 7.06 GB for the 2.02 billion tokens that the guide packed (`trace_lengths`)."""
PROBE = "x"


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = 448) -> PreTrainedTokenizerFast:
    """Train on corpus documents and some traces; set the chat template, the end token and the padding token.

    All 256 bytes are in the vocabulary, so any text can be encoded.

    Raises:
        ValueError: `vocabulary_size` leaves no room for merges.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
    from tokenizers.pre_tokenizers import ByteLevel, Split
    from tokenizers.pre_tokenizers import Sequence as Pipeline
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
    split = Split(Regex(SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = Pipeline([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(added),
        special_tokens=special,
        initial_alphabet=ByteLevel.alphabet(),
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


@dataclass(frozen=True)
class TokenCounter:
    """Counts tokens, or estimates them from bytes if no tokenizer could be loaded.

    Attributes:
        model: the model that the tokenizer belongs to.
        json: the tokenizer; "" for the estimate.
        prompt_overhead: tokens that the template adds to a question, including the start of the answer.
        conversation_overhead: tokens that the template adds to a question and its answer.
        why: the reason for the estimate.
    """

    model: str
    json: str = ""
    prompt_overhead: int = 9
    conversation_overhead: int = 11
    why: str = ""

    @property
    def counted(self) -> bool:
        """True if tokens are counted, False if they are estimated."""
        return bool(self.json)

    def prompt_length(self, question: str) -> int:
        """Count the tokens of a question in the chat template."""
        return self._tokens([question]) + self.prompt_overhead

    def conversation_length(self, messages: Sequence[Mapping[str, str]]) -> int:
        """Count the tokens of a whole conversation in the chat template."""
        return self._tokens([turn["content"] for turn in messages]) + self.conversation_overhead

    def _tokens(self, texts: list[str]) -> int:
        if not self.json:
            return round(sum(len(text.encode()) for text in texts) / BYTES_PER_TOKEN)
        return sum(len(_loaded(self.json).encode(text, add_special_tokens=False).ids) for text in texts)


def token_counter(model: str) -> TokenCounter:
    """Make the counter of a model's tokenizer (a folder or a hub id); it estimates if loading fails."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return TokenCounter(model, why=reason)
    template = tokenizer.chat_template or CHAT_TEMPLATE

    def length(messages: list[dict[str, str]], **options: bool) -> int:
        text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options)
        return len(tokenizer.encode(text, add_special_tokens=False))

    probe = len(tokenizer.encode(PROBE, add_special_tokens=False))
    question = user_prompt(PROBE)
    prompt = length(question, add_generation_prompt=True) - probe
    conversation = length([*question, {"role": "assistant", "content": PROBE}]) - 2 * probe
    return TokenCounter(model, tokenizer.backend_tokenizer.to_str(), prompt, conversation)


@functools.cache
def _loaded(json: str) -> Tokenizer:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json)
