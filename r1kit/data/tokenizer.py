"""A byte-level BPE tokenizer trained on the corpus, in the shape of Qwen's.

It departs from Qwen's in two ways: digits are always single tokens but may carry the space before them
(``" 7"`` is one token, ``" 12"`` is two), which shortens a trace by a quarter, and besides ``<think>`` the
answer tags are single tokens as well. The tags are *added* but not *special* tokens, as in Qwen3: decoding
with ``skip_special_tokens=True`` keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING

from r1kit.data.format import CHAT_TEMPLATE, PAD, TAGS, TURN_END, TURN_START

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPLIT = r" ?\p{N}| ?\\?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
r"""What may become one token: a digit, a word or \command, a run of signs (each with the space before it),
white space.
"""

ROLES = ["user", "assistant"] * 500
"""Read along with the texts, so that the chat turns' roles become single tokens as in Qwen's vocabulary."""


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = 448) -> PreTrainedTokenizerFast:
    """Train on ``texts`` (corpus documents and some traces) and return it with chat template, end and padding
    tokens.

    All 256 bytes are in the vocabulary, so any text can be encoded. Raises ValueError if ``vocabulary_size``
    leaves no room for merges.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [PAD, TURN_START, TURN_END]
    smallest = 256 + len(special) + len(TAGS)
    if vocabulary_size <= smallest:
        raise ValueError(
            f"vocabulary_size must be above {smallest} (bytes, special tokens, tags), found {vocabulary_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(TAGS),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain(texts, ROLES), trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=PAD,
        additional_special_tokens=[TURN_START],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
