"""Curation: keep the rows of a set that are worth training on, and report what was removed and why.

`keep_verified` is rejection sampling (DeepSeek-R1, section 2.3.3). `curate` runs the steps of a
`CurationSettings` over a set on disk in two passes. The first looks at every row, on all cores, and stores a
fingerprint of each row that no filter removes; duplicates are then found among the fingerprints; the second
pass writes the remaining rows. Only fingerprints and their index are in memory: four kilobytes per row,
measured on 40,000 rows (2026-11-24), whatever the rows' length.

**Filters** look at one row and return the reason to remove it, or "". They do not depend on other rows, so
they commute and a set can be divided among cores. (open-r1 filters by pass rate only, and excludes both
bounds.)

**Decontamination** is s1's (arXiv:2501.19393, 8-grams of words), as in open-r1's `scripts/decontaminate.py`:
no row may share an n-gram with an evaluation problem. Their method never finds a problem of fewer than 8
words; here such a problem is compared as a whole. Their words are separated by spaces; here words are
normalised (`texts.words`), so that writing a formula differently does not hide it. As there, a stock phrase
of 8 words removes an innocent row: the report names the phrase.

**Near duplicates** are rows whose sets of word n-grams are nearly equal (Jaccard similarity, estimated by
MinHash; Broder 1997), as in Lee et al. 2022 (arXiv:2107.06499). Signatures and their index come from rensa.
The order of the rows does not matter: they are processed in the order of a hash over all their columns, and
a row is removed if a *kept* row is near it. So each removed row has a near twin in the result. (Clusters
closed over chains, A near B near C, would remove a row without such a twin.) In mathematics "3 apples" and
"4 apples" are two problems with two answers, though 90% of their words agree: with `same_numbers`, only rows
with the same numbers in their problems are compared.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from r1kit.data.row_files import RowFile, in_batches, map_in_order, write_parquet
from r1kit.data.texts import ngrams, numbers, problem_text, prose, row_text, trace_text, words
from r1kit.runs.files import write_json_atomic
from r1kit.settings.data import (
    CurationSettings,
    DecontaminationStep,
    ExactStep,
    LanguageCode,
    LanguageStep,
    NearStep,
    PassRateStep,
    RepetitionStep,
    VerifiedStep,
)
from r1kit.settings.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    from py3langid.langid import LanguageIdentifier
    from rensa import RMinHash

Row = Mapping[str, Any]

KEPT, REMOVED, REPORT = "kept.parquet", "removed.parquet", "curation.json"
EXAMPLES = 3
"""Removed rows per step in the report."""
EXAMPLE_CHARACTERS = 160
WINDOW_CHARACTERS = 400
"""Prose that is classified at once; a trace may change its language half way."""
LEAST_LETTERS = 24
"""Prose with fewer letters is too short to detect its language."""
NO_LANGUAGE = "zxx"
"""The language model's class for text in no language: numbers, identifiers, markup."""
PERMUTATIONS = 128
"""Slots of a signature: a similarity of 0.8 is estimated with a standard error of 0.035."""
BANDS = 32
"""Of 4 slots each: rows of similarity 0.8 are compared with probability 1 - (1 - 0.8^4)^32 > 0.9999, rows of
0.5 with 0.87. An extra comparison is cheap; a missed duplicate is not."""


class NoSuchColumn(UserError):
    """A step needs a column that the set does not have; the command line exits with 2."""


def keep_verified(
    rows: Sequence[dict[str, Any]], judge: Callable[..., list[float | None]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split trace rows into (kept, removed) by a verifier, and set each row's `verified`.

    Args:
        judge: a function with TRL's reward signature, usually `r1kit.rewards.accuracy_reward`. It gets all
            completions at once with their `solution`, and returns 1.0 for a right answer. A row that it could
            not judge (None) is removed: only verified rows are kept.

    Raises:
        ValueError: the judge does not return one verdict per row.
    """
    completions = [[row["messages"][-1]] for row in rows]
    verdicts = judge(completions, solution=[row["solution"] for row in rows])
    if len(verdicts) != len(rows):
        raise ValueError(f"the judge returned {len(verdicts)} verdicts for {len(rows)} traces")
    kept, removed = [], []
    for row, verdict in zip(rows, verdicts, strict=True):
        verified = verdict is not None and verdict >= 1.0
        (kept if verified else removed).append({**row, "verified": verified})
    return kept, removed


@dataclass
class Removal:
    """A row that a step removed.

    Attributes:
        row: its number in the set, from 0.
        reason: such as `refused by the verifier`; text after a colon is about this row only.
        twin: the kept row of which this one is a duplicate.
        text: the beginning of its problem.
    """

    row: int
    step: str
    reason: str
    twin: int | None = None
    similarity: float | None = None
    text: str = ""


@dataclass
class StepReport:
    """Result of one step: rows it looked at, rows it removed, also by reason, and the first of them."""

    step: str
    rows: int
    removed: int
    reasons: dict[str, int]
    examples: list[Removal]


@dataclass
class Report:
    """Result of a curation; `evaluation_sets` has the number of problems per set of the decontamination."""

    source: str
    rows: int
    kept: int
    seconds: float
    steps: list[StepReport]
    settings: dict[str, Any]
    evaluation_sets: dict[str, int]


def curate(
    source: RowFile,
    settings: CurationSettings,
    out: str | Path,
    evaluation: Mapping[str, Iterable[str]] | None = None,
    workers: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Write `kept.parquet`, `removed.parquet` and finally `curation.json` (the report) into `out`.

    Args:
        source: rows with `problem`, `prompt` or `messages`.
        evaluation: problems of each evaluation set by its name, for the step decontamination.
        workers: processes that look at rows.
        progress: called with the number of rows that were looked at.

    Raises:
        ValueError: decontamination without evaluation problems, or a column that a step needs is missing.
    """
    import pyarrow as pa

    start, out = time.monotonic(), Path(out)
    index = None
    if settings.decontamination:
        if not evaluation:
            raise ValueError("decontamination needs the evaluation sets that a model will be judged by")
        index = EvaluationIndex(settings.decontamination.ngram)
        for name, problems in evaluation.items():
            index.add(name, problems)
    prints: dict[int, Fingerprint] = {}
    removed: dict[int, Removal] = {}
    row = 0
    for results in map_in_order(functools.partial(_examine, settings, index), source.batches(), workers):
        for result in results:
            if isinstance(result, Fingerprint):
                prints[row] = result
            else:
                removed[row] = Removal(row, *result)
            row += 1
        progress(row)
    removed |= _duplicates(prints, settings)
    kept = write_parquet(out / KEPT, source.schema, _remaining(source, removed))
    ordered = [removed[number] for number in sorted(removed)]
    text, number = pa.string(), pa.int64()
    schema = pa.schema({"row": number, "step": text, "reason": text, "twin": number,
                        "similarity": pa.float64(), "text": text})  # fmt: skip
    write_parquet(out / REMOVED, schema, in_batches(map(vars, ordered), schema))
    report = Report(
        source=str(source.path),
        rows=row,
        kept=kept,
        seconds=round(time.monotonic() - start, 1),
        steps=_step_reports(row, settings, ordered),
        settings=settings.model_dump(mode="json"),
        evaluation_sets=index.problems if index else {},
    )
    write_json_atomic(out / REPORT, asdict(report))
    return report


def _examine(
    settings: CurationSettings, index: EvaluationIndex | None, batch: pa.RecordBatch
) -> list[Fingerprint | tuple[str, str]]:
    """Return for each row the (step, reason) that removes it, or its fingerprint."""
    filters = filters_of(settings, index)
    results: list[Fingerprint | tuple[str, str]] = []
    for row in batch.to_pylist():
        reasons = ((step, reason) for step, judge in filters.items() if (reason := judge(row)))
        results.append(next(reasons, None) or fingerprint(row, settings.exact, settings.near))
    return results


def _duplicates(prints: dict[int, Fingerprint], settings: CurationSettings) -> dict[int, Removal]:
    removed = {}
    if settings.exact:
        for row, twin in exact_duplicates(prints).items():
            removed[row] = Removal(row, "exact", "the same text", twin)
        prints = {row: one for row, one in prints.items() if row not in removed}
    if settings.near:
        for row, (twin, similarity) in near_duplicates(prints, settings.near.threshold).items():
            removed[row] = Removal(row, "near", "nearly the same text", twin, round(similarity, 3))
    return removed


def _remaining(source: RowFile, removed: Mapping[int, Removal]) -> Iterator[pa.RecordBatch]:
    """Yield the kept rows; store the beginning of each removed row's problem in its `Removal`."""
    import pyarrow as pa

    start = 0
    for batch in source.batches():
        rows = range(start, start + batch.num_rows)
        for row in removed.keys() & rows:
            (content,) = batch.slice(row - start, 1).to_pylist()
            removed[row].text = problem_text(content)[:EXAMPLE_CHARACTERS]
        yield batch.filter(pa.array([row not in removed for row in rows]))
        start = rows.stop


def _step_reports(rows: int, settings: CurationSettings, removals: Sequence[Removal]) -> list[StepReport]:
    reports = []
    for step in (name for name in CurationSettings.model_fields if getattr(settings, name)):
        own = [removal for removal in removals if removal.step == step]
        reasons = Counter(removal.reason.partition(":")[0] for removal in own)
        reports.append(StepReport(step, rows, len(own), dict(reasons.most_common()), own[:EXAMPLES]))
        rows -= len(own)
    return reports


# Filters: each returns the reason to remove a row, or "".


def filters_of(
    settings: CurationSettings, index: EvaluationIndex | None = None
) -> dict[str, Callable[[Row], str]]:
    """Return the filters of these settings, by the name of their step, in the order in which they run."""
    functions = {
        "verified": unverified,
        "pass_rate": outside_band,
        "language": foreign,
        "repetition": repetitive,
        "decontamination": functools.partial(contaminated, index=index),
    }
    steps = {name: getattr(settings, name) for name in functions}
    return {name: functools.partial(functions[name], step=step) for name, step in steps.items() if step}


def unverified(row: Row, step: VerifiedStep) -> str:
    """Check that a verifier accepted the row."""
    verified = _column(row, "verified", step.column)
    return "" if verified is True else "not judged" if verified is None else "refused by the verifier"


def outside_band(row: Row, step: PassRateStep) -> str:
    """Check that the problem's pass rate is in the band; both ends are kept."""
    rate = _column(row, "pass_rate", step.column)
    if rate is None:
        return "pass rate not measured"
    if rate < step.least:
        return f"pass rate below {step.least:g}"
    return f"pass rate above {step.most:g}" if rate > step.most else ""


def _column(row: Row, step: str, name: str) -> Any:
    if name not in row:
        columns = ", ".join(sorted(row))
        raise NoSuchColumn(f"the step {step} needs a column {name!r}; the set has: {columns}")
    return row[name]


def foreign(row: Row, step: LanguageStep) -> str:
    """Return the language of the row's prose if it is not allowed, such as `zh`.

    Windows at the beginning, the middle and the end of each text are classified. Prose that is too short, or
    of which the model is unsure, is kept.
    """
    for text in step.texts:
        for window in _windows(" ".join(prose(row_text(row, text)).split())):
            # A Chinese or Japanese character says as much as four letters.
            least = LEAST_LETTERS // 4 if any(char >= "\u3040" for char in window) else LEAST_LETTERS
            if sum(map(str.isalpha, window)) < least:
                continue
            language, probability = _language_identifier().classify(window)
            if language not in (*step.allowed, NO_LANGUAGE) and probability >= step.confidence:
                return language
    return ""


def _windows(text: str) -> list[str]:
    size = WINDOW_CHARACTERS
    if len(text) <= 3 * size:
        return [text[start : start + size] for start in range(0, max(1, len(text)), size)]
    middle = (len(text) - size) // 2
    return [text[:size], text[middle : middle + size], text[-size:]]


@functools.cache
def _language_identifier() -> LanguageIdentifier:
    # Limited to the languages that the settings know; otherwise it takes short texts for rare relatives, such
    # as Chinese for Cantonese. The model is in py3langid's wheel and loads in half a second.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    model.set_languages([*get_args(LanguageCode), NO_LANGUAGE])
    return model


def repetitive(row: Row, step: RepetitionStep) -> str:
    """Check how many of the trace's n-grams occurred before in it."""
    share = repeated_share(words(trace_text(row)), step.ngram)
    return f"{step.ngram}-grams repeated" if share > step.most else ""


def repeated_share(sequence: Sequence[str], n: int) -> float:
    """Return the share of the n-grams of words that occurred before, 0.0 if there are fewer than n words.

    N-grams are compared by a polynomial of their words' 64-bit hashes: a long trace has ten thousand.
    """
    import numpy as np

    windows = len(sequence) - n + 1
    if windows < 1:
        return 0.0
    hashes = np.fromiter(map(hash, sequence), dtype=np.int64, count=len(sequence)).view(np.uint64)
    sums = np.zeros(windows, dtype=np.uint64)
    for first in range(n):
        sums = sums * np.uint64(0x9E3779B97F4A7C15) + hashes[first : first + windows]
    return 1 - len(np.unique(sums)) / windows


def contaminated(row: Row, step: DecontaminationStep, index: EvaluationIndex) -> str:
    """Name the evaluation problem that the row shares words with: `aime24: problem 7, "the shared words"`."""
    for text in step.texts:
        if match := index.find(row_text(row, text)):
            return f'{match[0]}, "{match[1]}"'
    return ""


@dataclass
class EvaluationIndex:
    """The n-grams of evaluation problems, and whole problems that are shorter, each with its origin.

    Attributes:
        problems: number of problems of each evaluation set.
    """

    ngram: int = 8
    long: dict[int, str] = field(default_factory=dict)
    short: dict[int, str] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, problems: Iterable[str]) -> None:
        """Add the problems of an evaluation set.

        Raises:
            ValueError: there are no problems, or one has no words, so that it could not be found.
        """
        count = 0
        for count, problem in enumerate(problems, start=1):
            sequence = words(problem)
            if not sequence:
                raise ValueError(f"problem {count} of {name} has no words: {problem!r}")
            origin = f"{name}: problem {count}"
            if len(sequence) < self.ngram:
                self.short.setdefault(_hash64(" ".join(sequence)), origin)
            for ngram in ngrams(sequence, self.ngram):
                self.long.setdefault(_hash64(ngram), origin)
        if not count:
            raise ValueError(f"the evaluation set {name} has no problems")
        self.problems[name] = count

    def find(self, text: str) -> tuple[str, str] | None:
        """Return (evaluation set and problem, the shared words), or None if the text is clean."""
        sequence = words(text)
        whole = " ".join(sequence)
        if len(sequence) < self.ngram and (origin := self.short.get(_hash64(whole))):
            return origin, whole
        for ngram in ngrams(sequence, self.ngram):
            if origin := self.long.get(_hash64(ngram)):
                return origin, ngram
        return None


# Duplicates.


@dataclass(frozen=True)
class Fingerprint:
    """The data kept in memory for a row, whatever its length.

    Attributes:
        rank: a hash over all columns; the smallest of a group of duplicates is kept.
        exact: equal for rows that are exact duplicates.
        numbers: equal for problems with the same numbers.
    """

    rank: bytes
    exact: bytes = b""
    signature: RMinHash | None = None
    numbers: bytes = b""


def fingerprint(row: Row, exact: ExactStep | None, near: NearStep | None) -> Fingerprint:
    """Make the fingerprint of a row for these steps, without the parts for a step that is None."""
    rank = _hash128(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str))
    same = _hash128(" ".join(_row_words(row, exact.texts))) if exact else b""
    if not near:
        return Fingerprint(rank, same)
    compared = " ".join(sorted(numbers(problem_text(row)))) if near.same_numbers else ""
    return Fingerprint(rank, same, signature(_row_words(row, near.texts), near.ngram), _hash128(compared))


def _row_words(row: Row, texts: Iterable[str]) -> list[str]:
    return [word for text in texts for word in words(row_text(row, text))]


def signature(sequence: Sequence[str], ngram: int) -> RMinHash:
    """Make the MinHash signature of the n-grams of words; a sequence shorter than `ngram` is one n-gram."""
    from rensa import RMinHash

    minhash = RMinHash(num_perm=PERMUTATIONS, seed=0)
    minhash.update(list(ngrams(sequence, ngram)) or [" ".join(sequence)])
    return minhash


def exact_duplicates(prints: Mapping[int, Fingerprint]) -> dict[int, int]:
    """Return row to remove -> the kept row with the same text, among the fingerprints by row."""
    kept: dict[bytes, int] = {}
    for row in _ranked(prints):
        kept.setdefault(prints[row].exact, row)
    return {row: kept[one.exact] for row, one in prints.items() if kept[one.exact] != row}


def near_duplicates(prints: Mapping[int, Fingerprint], threshold: float) -> dict[int, tuple[int, float]]:
    """Return row to remove -> (the most similar kept row, their similarity)."""
    from rensa import RMinHashLSH

    index = RMinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, num_bands=BANDS)
    removed: dict[int, tuple[int, float]] = {}
    for row in _ranked(prints):
        one = prints[row]
        twins = [
            (one.signature.jaccard(prints[other].signature), prints[other].rank, other)
            for other in index.query(one.signature)
            if prints[other].numbers == one.numbers
        ]
        similarity, _, twin = max(twins, default=(0.0, b"", -1))
        if similarity >= threshold:
            removed[row] = (twin, similarity)
        else:
            index.insert(row, one.signature)
    return removed


def _ranked(prints: Mapping[int, Fingerprint]) -> list[int]:
    return sorted(prints, key=lambda row: prints[row].rank)


def _hash128(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _hash64(text: str) -> int:
    # Python's own hash differs from process to process.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
