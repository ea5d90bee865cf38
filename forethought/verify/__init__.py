"""Judges at test time: `verify = async (messages, steps) -> Verdict`, and votes, which need no model.

A judge sees a conversation and a thought and no answer. What it spends it reports as `Verdict.cost`; a thought it
could not judge has `score=None`.
"""
