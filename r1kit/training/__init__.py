"""Training programs (pretrain, sft, grpo) and what they share. Importing this package loads nothing heavy."""
