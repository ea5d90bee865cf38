"""Spend compute to find a better thought than the model would blurt out.

`search = async (messages, engine, *, budget, verify, sampling, ...) -> Tree`. A search asks the engine for one sample
at a time, concurrently, books every token in an `Account`, and never sees a problem or its answer.
"""
