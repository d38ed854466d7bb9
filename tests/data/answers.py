"""What a teacher's trace answers, read without the rewards, which live on a floor above the data."""

import re


def boxed(completion):
    """The number in the box of a trace as text, None without a box."""
    found = re.findall(r"\\boxed\{(-?\d+)\}", completion)
    return found[-1] if found else None
