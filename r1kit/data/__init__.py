"""The embedded world: story problems, a teacher that slips, one tag format, a tokenizer and the datasets made
of them.
"""
