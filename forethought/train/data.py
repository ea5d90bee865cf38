"""From traces to training sequences. Which builder you call is the algorithm; the learner knows none of them.

Every builder renders through `thought.tokens.render`, so that the learner sees exactly the tokens that were sampled.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from forethought.thought.tokens import Tokenizer, render
from forethought.thought.tools import worked_steps
from forethought.types import FINISHED, Datum, Messages, Step, Trace

TRUNCATED = ("length", "budget")
"""The stops of a thought that was cut off."""


def datum(tokenizer: Tokenizer, messages: Messages, steps: Sequence[Step], weight: float = 1.0) -> Datum:
    """One training sequence: the prompt and all steps; the tokens of sampled steps are targets, each with `weight`.

    The sampler's log-probabilities are kept only where every sampled step has one for each of its tokens.
    """
    tokens, spans = render(tokenizer, messages, steps)
    mask = [False] * len(tokens)
    logprobs = [0.0] * len(tokens)
    complete = True
    for step, (start, end) in zip(steps, spans, strict=True):
        if step.sampled:
            mask[start:end] = [True] * (end - start)
            if complete := complete and len(step.logprobs) == end - start:
                logprobs[start:end] = step.logprobs
    return Datum(
        tokens=tokens,
        mask=tuple(mask),
        weights=tuple(weight if target else 0.0 for target in mask),
        logprobs=tuple(logprobs) if complete and any(mask) else (),
    )


def supervised(examples: Iterable[tuple[Messages, str]], tokenizer: Tokenizer) -> list[Datum]:
    """Worked examples as (prompt, whole completion); the completion and its end token are the targets, but for what a
    tool gives back in it (`thought.tools`)."""
    return [datum(tokenizer, messages, worked_steps(tokenizer, text)) for messages, text in examples]


def grouped(traces: Iterable[Trace]) -> list[list[Trace]]:
    """Traces by the search they came from (`tree`, or the problem where none is named), in order of first sight."""
    groups: dict[tuple[str, str | None], list[Trace]] = {}
    for trace in traces:
        groups.setdefault((trace.problem_id, trace.tree), []).append(trace)
    return list(groups.values())


def star(
    groups: Iterable[Sequence[Trace]],
    tokenizer: Tokenizer,
    *,
    per_problem: int | None = None,
    distinct: bool = True,
    prompts: Mapping[str, Messages] | None = None,
    seed: int = 0,
) -> tuple[list[Datum], dict[str, float]]:
    """STaR's filter: the finished thoughts whose reward is 1, to be imitated (Zelikman et al. 2022, algorithm 1).

    Args:
        groups: traces with a `grade`; several groups may hold the same problem (its plain and its hinted thoughts).
        per_problem: most thoughts of one problem, drawn at random; `None` keeps all. Accepted thoughts pile up on
            easy problems, so a cap matters (ReST-EM uses 10 of 32).
        distinct: count thoughts of a problem with the same text once.
        prompts: messages to train under, by problem id, in place of those the trace was sampled under. This is how
            rationalisation works: the hint is shown when sampling and removed when training (section 3.2).
        seed: of the draw under the cap; it does not depend on the order of problems.

    Returns:
        The data, and: `problems`, `solved` (problems with a kept thought), `correct` (finished thoughts with reward
        1), `kept` (data).
    """
    if per_problem is not None and per_problem < 1:
        raise ValueError(f"per_problem is {per_problem}; it must be at least 1, or None to keep every correct thought")
    by_problem: dict[str, list[Trace]] = {}
    correct = 0
    for trace in (trace for group in groups for trace in group):
        found = by_problem.setdefault(trace.problem_id, [])
        if trace.reward != 1 or trace.stop not in FINISHED:
            continue
        correct += 1
        if not distinct or all(trace.text != other.text for other in found):
            found.append(trace)
    data: list[Datum] = []
    for problem, found in by_problem.items():
        if per_problem is not None and len(found) > per_problem:
            picked = random.Random(f"{seed}/{problem}").sample(range(len(found)), per_problem)
            found = [found[index] for index in sorted(picked)]
        data += [datum(tokenizer, (prompts or {}).get(problem, trace.messages), trace.steps) for trace in found]
    solved = sum(bool(found) for found in by_problem.values())
    return data, {"problems": len(by_problem), "solved": solved, "correct": correct, "kept": len(data)}


def grpo(
    groups: Iterable[Sequence[Trace]],
    tokenizer: Tokenizer,
    *,
    baseline: Literal["mean", "loo"] = "mean",
    scale: Literal["std", "none"] = "std",
    length: Literal["sequence", "constant", "token"] = "sequence",
    max_tokens: int | None = None,
    drop_dead: bool = True,
    truncated: Literal["keep", "mask"] = "keep",
) -> tuple[list[Datum], dict[str, float]]:
    """Group-relative advantages as weights; the methods differ only in these knobs and the learner's normaliser.

    | method | baseline | scale | length | learner's normaliser |
    |---|---|---|---|---|
    | GRPO (DeepSeekMath, section 4.1) | mean | std | sequence: 1/(its targets) | `"sequences"` |
    | Dr. GRPO (2503.20783, section 3.2) | mean | none | constant: 1/`max_tokens` | `"sequences"` |
    | DAPO (2503.14476, section 3.3) | mean | std | token: 1 | `"tokens"` |
    | RLOO | loo: mean of the others | none | token: 1 | `"sequences"` |

    Traces that failed (`stop="error"`) or could not be judged (reward `None`) belong to no baseline and no data. The
    standard deviation is the population's, floored at 1e-6.

    Args:
        groups: the traces of one problem each, with a `grade`; `grouped` makes them.
        max_tokens: the constant of `length="constant"`, usually `Sampling.max_tokens` of the whole thought.
        drop_dead: leave out groups whose rewards are all equal (DAPO's dynamic sampling does). They have zero
            advantage; keep them where the loss has a KL term. A normaliser of `"sequences"` then counts the kept
            ones; pass `stats["sequences"]` to average over all, as the papers' formulas do.
        truncated: `"mask"` leaves cut-off thoughts in the baseline and out of the data (DAPO's overlong filter).

    Returns:
        The data, and: `groups`, `dead` (share of judged groups whose rewards are equal), `sequences` (judged traces),
        `kept` (data), `unjudged`, `truncated` (share), `reward` (mean), `length_correct`, `length_incorrect` (mean
        sampled tokens where reward is 1, and where it is not; nan where there is none).
    """
    if length == "constant" and (max_tokens is None or max_tokens < 1):
        raise ValueError(f"length='constant' divides by max_tokens, which is {max_tokens}; give a number above 0")
    data: list[Datum] = []
    rewards_seen: list[float] = []
    lengths: dict[bool, list[int]] = {True: [], False: []}
    count = {"groups": 0, "judged": 0, "dead": 0, "unjudged": 0, "truncated": 0}
    for group in groups:
        count["groups"] += 1
        judged = [(trace, trace.reward) for trace in group if trace.reward is not None and trace.stop != "error"]
        count["unjudged"] += len(group) - len(judged)
        if not judged:
            continue
        count["judged"] += 1
        rewards = [reward for _, reward in judged]
        rewards_seen += rewards
        dead = min(rewards) == max(rewards)
        count["dead"] += dead
        for (trace, reward), advantage in zip(judged, advantages(rewards, baseline, scale), strict=True):
            cut = trace.stop in TRUNCATED
            count["truncated"] += cut
            row = datum(tokenizer, trace.messages, trace.steps)
            targets = sum(row.mask)
            lengths[reward == 1].append(targets)
            if (dead and drop_dead) or (cut and truncated == "mask") or not targets:
                continue
            divisor = {"sequence": targets, "constant": max_tokens or 1, "token": 1}[length]
            weight = advantage / divisor
            data.append(
                Datum(row.tokens, row.mask, tuple(weight if target else 0.0 for target in row.mask), row.logprobs)
            )
    return data, {
        "groups": count["groups"],
        "dead": count["dead"] / count["judged"] if count["judged"] else math.nan,
        "sequences": len(rewards_seen),
        "kept": len(data),
        "unjudged": count["unjudged"],
        "truncated": count["truncated"] / len(rewards_seen) if rewards_seen else math.nan,
        "reward": _mean(rewards_seen),
        "length_correct": _mean(lengths[True]),
        "length_incorrect": _mean(lengths[False]),
    }


def advantages(
    rewards: Sequence[float], baseline: Literal["mean", "loo"] = "mean", scale: Literal["std", "none"] = "std"
) -> list[float]:
    """Each reward of a group less its baseline, over the group's standard deviation if asked.

    `loo` takes the mean of the others, which is G/(G-1) times (reward - mean); a group of one gets 0. Equal rewards
    give exactly 0.
    """
    n = len(rewards)
    if n < 2 or min(rewards) == max(rewards):
        return [0.0] * n
    mean = math.fsum(rewards) / n
    factor = n / (n - 1) if baseline == "loo" else 1.0
    spread = math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / n)
    divisor = max(spread, 1e-6) if scale == "std" else 1.0
    return [factor * (reward - mean) / divisor for reward in rewards]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
