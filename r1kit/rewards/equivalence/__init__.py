r"""When two answers are equal: exact rules for the common forms, math-verify for the rest.

`reading.read` turns an answer into a form (`Quantity`, `Items`, ...) with exact values in it, and
`comparison.equal` compares two forms. It is exact where both were read, and asks `ask(gold, answer)`
(math-verify, in `verifier_process.py`) only about the other parts. The same rules run in the training
process, where `ask` raises `Undecided`, and in the verifier's processes.

The rules, with math-verify 0.9.0's verdict where it differs ("there"; all tried on 2026-11-24):

- **Numbers** are compared as exact rationals. If one is a decimal with six or more digits after the point,
  and the other needs as many, six equal decimals are enough (1/3 = 0.333333) if the two also differ by less
  than 1 part in 100,000. There six decimals are always enough: 0.0000001 was equal to 0.0000004.
- **Percent**: a percent sign may be read both ways, 50% = 0.5 and 50% = 50, because golds are written
  both ways; 0.5 and 50 differ. There 15% = 15, but 12.5% differs from 12.5
  and -15% from -15.
- **Units** count if both sides name one: "5 cm" was equal to "5 m", "12:30 am" to "12:30 pm". A missing
  unit, and words for things counted ("10 apples"), don't matter, but "5 million" is 5,000,000 (there 5).
  Other units aren't converted. There one letter after a digit is a unit as well, so that the expression
  "5t" was equal to 5: here it is a product.
- **Notation**: "1 000" and "1\,000" are 1000 (there 1 * 0 = 0: a gold of 0 rewarded them), 1.5e3 is 1500
  (there 1.5 * e * 3), "1 1/2" is 3/2 (there 1), 0.\overline{3} is 1/3 (there unreadable), "5." is 5. Two
  numbers with nothing between them are refused.
- **Intervals and tuples** need the same brackets and the same order. A bare list "1, 2" may stand for a
  tuple in order, or for a set in any order. A set isn't a tuple: there \{1,2\} was equal to (1,2), and
  to (2,1) if gold was the set but not if it was the answer. `x > 3` equals (3, \infty) either way round:
  there only as gold.
- **Sets and lists** are matched element by element in any order, repetition ignored; there they are
  sorted and paired. A list never equals one value, in any spelling ("5 or 6", "x=5, x=6", "\{5,6\}", "5
  \pm 1").
- **Set builders**: \{x \mid x > 3\} is the interval; there it was the number 3.
- **Equations**: `x = 5` equals 5 and not `y = 5`. Only a lone name may be dropped: there `x + 3 = 5` was
  equal to 5. An equation that contradicts itself is refused: there `6 = 5` and `x = 6 = 5` were equal to
  5.
- **Words** are compared as words, whatever the case and `\text{}`: there "on" was equal to "no", because
  letters are factors. Single letters, the choices of a test, may stand in brackets or before a full
  stop.
- **Ratios** a:b equal a/b; a:b:c keeps its order (there 1:2:3 and 1:3:2 were both 1/6).
- **Unknown notation** is refused instead of sent to math-verify, which skips it.
- **Large numbers** are equal if written alike; a power with more than about 2000 digits is never
  computed.
"""

from __future__ import annotations

from r1kit.rewards.equivalence.comparison import Undecided, equal
from r1kit.rewards.equivalence.reading import Refused, Unread, parts, read

__all__ = ["Refused", "Undecided", "Unread", "equal", "parts", "read"]
