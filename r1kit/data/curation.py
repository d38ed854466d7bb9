"""Curation: which rows of a set are worth training on, and a report of what was removed and why.

`keep_verified` is rejection sampling (DeepSeek-R1, section 2.3.3). `curate` runs the steps of a
`CurationSettings` over a set on disk in two passes. The first looks at every row, on all cores, and remembers
a fingerprint of each that no filter removes; duplicates are then decided among fingerprints; the second pass
writes what stays. Only fingerprints and their index are held: four kilobytes per row, measured on 40,000
(2026-11-24), whatever the rows' length.

**Filters** look at one row and say why it goes, "" if it stays. They know nothing of other rows, so they
commute and a set can be divided among cores. (open-r1 filters by pass rate alone, and excludes both bounds.)

**Decontamination** is s1's (arXiv:2501.19393, 8-grams of words), as in open-r1's `scripts/decontaminate.py`:
no row may share an n-gram with an evaluation problem. There a problem of fewer than 8 words is never found;
here it is compared as a whole. There words are what stands between spaces; here they are normalised
(`texts.words`), so that another way to write a formula hides nothing. Like there, a stock phrase of 8 words
removes an innocent row: the report names the phrase.

**Near duplicates** are rows whose word n-grams are nearly the same set (Jaccard similarity, estimated by
MinHash; Broder 1997), as in Lee et al. 2022 (arXiv:2107.06499). Signatures and their index are rensa's. The
result does not depend on the order of the rows: they are looked at in the order of a hash over all their
columns, and a row goes if a row that *stays* is near it. So each removed row has a near twin in the result.
(Clusters closed over chains, A near B near C, would remove a row that nothing in the result is near to.) In
mathematics "3 apples" and "4 apples" are two problems with two answers, though 90% of their words agree:
where `same_numbers` is set, only rows whose problems have the same numbers are compared.
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
from r1kit.data.texts import ngrams, numbers, problem_text, prose, row_text, row_words, trace_text, words
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
"""Removed rows of each step that the report shows."""
EXAMPLE_CHARACTERS = 160
WINDOW_CHARACTERS = 400
"""Prose that is classified at a time; a trace may change its language half way."""
LEAST_LETTERS = 24
"""Letters below which prose is too short to tell its language by."""
NO_LANGUAGE = "zxx"
"""The language model's class for text that is no language: numbers, identifiers, markup."""
PERMUTATIONS = 128
"""Slots of a signature: a similarity of 0.8 is estimated with a standard error of 0.035."""
BANDS = 32
"""Of 4 slots each: rows of similarity 0.8 are compared with probability 1 - (1 - 0.8^4)^32 > 0.9999, those of
0.5 with 0.87. Comparing is cheap, missing is not."""


class NoSuchColumn(UserError):
    """A step asks for a column that the set does not have; the command line exits with 2."""


def keep_verified(
    rows: Sequence[dict[str, Any]], judge: Callable[..., list[float | None]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split trace rows into (kept, removed) by a verifier, and set each row's `verified`.

    Args:
        judge: a function with TRL's reward signature, usually `r1kit.rewards.accuracy_reward`. It gets all
            completions at once and their `solution`, and returns 1.0 for right. A row that it could not judge
            (None) is removed: what is not verified is not kept.

    Raises:
        ValueError: the judge returns another number of verdicts than rows.
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
        row: counts from 0 in the set as it was read.
        reason: `refused by the verifier`; what comes after a colon is about this row alone.
        twin: the row that stays for this duplicate.
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
    """What one step did: rows it looked at, rows it removed, by reason, and the first of them."""

    step: str
    rows: int
    removed: int
    reasons: dict[str, int]
    examples: list[Removal]


@dataclass
class Report:
    """What curation did to a set; `evaluation_sets` counts the problems that rows were compared with."""

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
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> Report:
    """Write `kept.parquet`, `removed.parquet` and, last of all, `curation.json` (the report) into `out`.

    Args:
        source: rows with `problem`, `prompt` or `messages`.
        evaluation: problems of each evaluation set by its name, for the step decontamination.
        workers: processes that look at rows.
        progress: told how many rows of how many were looked at.

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
        progress(row, source.rows)
    removed |= _duplicates(prints, settings)
    kept = write_parquet(out / KEPT, source.schema, _without(source, removed))
    ordered = [removed[row] for row in sorted(removed)]
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
    found: list[Fingerprint | tuple[str, str]] = []
    for row in batch.to_pylist():
        reasons = ((step, reason) for step, judge in filters.items() if (reason := judge(row)))
        found.append(next(reasons, None) or fingerprint(row, settings.exact, settings.near))
    return found


def _duplicates(prints: dict[int, Fingerprint], settings: CurationSettings) -> dict[int, Removal]:
    removed = {}
    if settings.exact:
        for row, twin in exact_duplicates(prints).items():
            removed[row] = Removal(row, "exact", "the same text", twin)
        prints = {row: found for row, found in prints.items() if row not in removed}
    if settings.near:
        for row, (twin, similarity) in near_duplicates(prints, settings.near.threshold).items():
            removed[row] = Removal(row, "near", "nearly the same text", twin, round(similarity, 3))
    return removed


def _without(source: RowFile, removed: Mapping[int, Removal]) -> Iterator[pa.RecordBatch]:
    """Yield the rows that stay; note of the others the beginning of the problem."""
    import pyarrow as pa

    start = 0
    for batch in source.batches():
        rows = range(start, start + batch.num_rows)
        for row in rows:
            if row in removed:
                (lost,) = batch.slice(row - start, 1).to_pylist()
                removed[row].text = problem_text(lost)[:EXAMPLE_CHARACTERS]
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
    """Say why the row is not verified: a verifier refused it, or none could judge it."""
    found = _column(row, "verified", step.column)
    return "" if found is True else "not judged" if found is None else "refused by the verifier"


def outside_band(row: Row, step: PassRateStep) -> str:
    """Say why the problem's pass rate is of no use; both ends of the band are kept."""
    rate = _column(row, "pass_rate", step.column)
    if rate is None:
        return "pass rate not measured"
    if rate < step.least:
        return f"pass rate below {step.least:g}"
    return f"pass rate above {step.most:g}" if rate > step.most else ""


def _column(row: Row, step: str, name: str) -> Any:
    if name not in row:
        have = ", ".join(sorted(row))
        raise NoSuchColumn(f"the step {step} needs a column {name!r}; the set has: {have}")
    return row[name]


def foreign(row: Row, step: LanguageStep) -> str:
    """Return the language of the row's prose where it is not allowed, such as `zh`.

    Windows at the beginning, the middle and the end of each text are classified. Prose too short to tell, and
    what the model is unsure of, is kept.
    """
    for text in step.texts:
        for window in _windows(" ".join(prose(row_text(row, text)).split())):
            # A Chinese or Japanese character says as much as four letters.
            least = LEAST_LETTERS // 4 if any(char >= "\u3040" for char in window) else LEAST_LETTERS
            if sum(map(str.isalpha, window)) < least:
                continue
            language, probability = language_identifier().classify(window)
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
def language_identifier() -> LanguageIdentifier:
    """Load the language model (py3langid, in its wheel; half a second).

    It gives probabilities among the languages that the settings know: short texts are else taken for rare
    relatives, Chinese for Cantonese.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    model.set_languages([*get_args(LanguageCode), NO_LANGUAGE])
    return model


def repetitive(row: Row, step: RepetitionStep) -> str:
    """Say that the trace repeats itself, by the share of its n-grams that occurred before in it."""
    share = repeated_share(words(trace_text(row)), step.ngram)
    return f"{step.ngram}-grams repeated" if share > step.most else ""


def repeated_share(found: Sequence[str], n: int) -> float:
    """Return the share of the n-grams of words that occurred before, 0.0 where there are fewer than n words.

    An n-gram is compared by a polynomial over its words' hashes, 64 bits: long traces have ten thousand.
    """
    import numpy as np

    windows = len(found) - n + 1
    if windows < 1:
        return 0.0
    hashes = np.fromiter(map(hash, found), dtype=np.int64, count=len(found)).view(np.uint64)
    sums = np.zeros(windows, dtype=np.uint64)
    for first in range(n):
        sums = sums * np.uint64(0x9E3779B97F4A7C15) + hashes[first : first + windows]
    return 1 - len(np.unique(sums)) / windows


@dataclass
class EvaluationIndex:
    """The n-grams of evaluation problems, and the problems that are shorter, with where they come from.

    `problems` counts those of each evaluation set.
    """

    ngram: int = 8
    long: dict[int, str] = field(default_factory=dict)
    short: dict[int, str] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, problems: Iterable[str]) -> None:
        """Take up the problems of an evaluation set.

        Raises:
            ValueError: there are none, or one has no word: nothing could be found by it.
        """
        count = 0
        for count, problem in enumerate(problems, start=1):
            found = words(problem)
            if not found:
                raise ValueError(f"problem {count} of {name} has no words: {problem!r}")
            where = f"{name}: problem {count}"
            if len(found) < self.ngram:
                self.short.setdefault(_hash64(" ".join(found)), where)
            for ngram in ngrams(found, self.ngram):
                self.long.setdefault(_hash64(ngram), where)
        if not count:
            raise ValueError(f"the evaluation set {name} has no problems")
        self.problems[name] = count

    def find(self, text: str) -> tuple[str, str] | None:
        """Return (evaluation set and problem, the words that both have), or None if the text is clean."""
        found = words(text)
        whole = " ".join(found)
        if len(found) < self.ngram and (where := self.short.get(_hash64(whole))):
            return where, whole
        for ngram in ngrams(found, self.ngram):
            if where := self.long.get(_hash64(ngram)):
                return where, ngram
        return None


def contaminated(row: Row, step: DecontaminationStep, index: EvaluationIndex) -> str:
    """Say where the row meets an evaluation set: `aime24: problem 7, "the words they share"`."""
    for text in step.texts:
        if found := index.find(row_text(row, text)):
            return f'{found[0]}, "{found[1]}"'
    return ""


@dataclass(frozen=True)
class Fingerprint:
    """What is remembered of a row, whatever its length.

    Attributes:
        rank: a hash over all columns; the smallest of a group of duplicates stays.
        exact: equal for rows that are exact duplicates.
        numbers: equal for problems with the same numbers.
    """

    rank: bytes
    exact: bytes = b""
    signature: RMinHash | None = None
    numbers: bytes = b""


def fingerprint(row: Row, exact: ExactStep | None, near: NearStep | None) -> Fingerprint:
    """Make the fingerprint of a row for these steps; what a step that is None would need is left out."""
    rank = _hash128(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str))
    same = _hash128(" ".join(row_words(row, exact.texts))) if exact else b""
    if not near:
        return Fingerprint(rank, same)
    compared = " ".join(sorted(numbers(problem_text(row)))) if near.same_numbers else ""
    return Fingerprint(rank, same, signature(row_words(row, near.texts), near.ngram), _hash128(compared))


def signature(found: Sequence[str], ngram: int) -> RMinHash:
    """Make the MinHash signature of the n-grams of words; fewer words than that are one n-gram."""
    from rensa import RMinHash

    made = RMinHash(num_perm=PERMUTATIONS, seed=0)
    made.update(list(ngrams(found, ngram)) or [" ".join(found)])
    return made


def exact_duplicates(prints: Mapping[int, Fingerprint]) -> dict[int, int]:
    """Return row to remove -> row that stays for it, among the fingerprints by row."""
    stays: dict[bytes, int] = {}
    for row in _ranked(prints):
        stays.setdefault(prints[row].exact, row)
    return {row: stays[found.exact] for row, found in prints.items() if stays[found.exact] != row}


def near_duplicates(prints: Mapping[int, Fingerprint], threshold: float) -> dict[int, tuple[int, float]]:
    """Return row to remove -> (the most similar row that stays, their similarity)."""
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
    """Return the rows in the order in which they are looked at."""
    return sorted(prints, key=lambda row: prints[row].rank)


def _hash128(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _hash64(text: str) -> int:
    # Python's own hash differs from process to process.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
