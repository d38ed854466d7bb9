r"""The one format of a reasoned answer, used by the teacher, SFT, GRPO, the rewards and the evaluation.

A completion has its tags on their own lines, as in the prompts of DeepSeek-R1 and open-r1::

    <think>
    Step 1: 7 - 3 = 4
    Step 2: 4 + 9 = 13
    </think>
    <answer>
    \boxed{13}
    </answer>

The chat template is Qwen's ChatML without tools and without a default system message, whose tokens every
rollout would pay for. The assistant's text, including its end mark, is between ``{% generation %}`` marks:
TRL builds the mask of an assistant-only loss from them.
"""

from __future__ import annotations

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)

TURN_START, TURN_END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- message['content'] + '<|im_end|>' -}}"
    "{%- endif -%}"
    "{{- '\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def write_completion(steps: list[str], answer: str) -> str:
    r"""Write the completion with these lines of reasoning and ``\boxed{answer}``."""
    return write_answer(steps, rf"\boxed{{{answer}}}")


def write_answer(steps: list[str], content: str) -> str:
    """Write the completion with these lines of reasoning and any content between the answer tags."""
    reasoning = "\n".join(steps)
    return f"{THINK_OPEN}\n{reasoning}\n{THINK_CLOSE}\n{ANSWER_OPEN}\n{content}\n{ANSWER_CLOSE}"


def user_prompt(problem: str) -> list[dict[str, str]]:
    """Return the conversation that asks for an answer to `problem` (TRL's conversational prompt)."""
    return [{"role": "user", "content": problem}]


def begins_reasoning(prompt: str) -> bool:
    """Tell whether a prompt ends in `<think>`, as the chat templates of R1's distilled models write it.

    The completion then starts inside the reasoning.
    """
    return prompt.rstrip().endswith(THINK_OPEN)
