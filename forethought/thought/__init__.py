"""What a thought looks like: its marks, its steps, its tokens.

    <think>
    one move a line
    </think>
    \\boxed{the answer}

`marks` reads and writes that text; `tokens` is the one place where a conversation and its steps become token ids,
for the engine and for the learner alike; `steps` cuts a sampled thought into moves with their tokens exact.
"""
