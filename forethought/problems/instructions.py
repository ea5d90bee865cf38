"""Instructions whose following can be checked, in the manner of IFEval (arXiv 2311.07911, section 2).

    Write about a walk in the rain. Follow all of this:
    - Use the word "river" exactly 2 times.
    - Write at least 20 words.
    - Use no commas.

What stands after the thought is judged, by its form alone: nobody looks whether it makes sense. These problems show
whether a model that was trained to reason still does what it is told.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any

from forethought.problems.addition import digits_range
from forethought.problems.code import OPTIONS as PROGRAMS
from forethought.problems.generate import Draft, Option, loader
from forethought.problems.grading import unjudged
from forethought.problems.sandbox import Credit
from forethought.problems.task import Task
from forethought.thought.marks import after_thought
from forethought.types import Problem, Trace, Verdict

MOST_CHECKS = 6
LONGEST = 20_000
"""Characters that are judged."""

OPTIONS: dict[str, Option] = {
    "checks": (digits_range, f"a number or a range of numbers from 1 to {MOST_CHECKS}, like 3 or 1-4"),
    "credit": PROGRAMS["credit"],
}

TOPICS = (
    "a walk in the rain", "how bread is made", "a visit to a museum", "why people sing", "the first day at school",
    "a train that is late", "what makes a good friend", "an old map", "how birds find their way",
)  # fmt: skip
WORDS = (
    "anchor", "basket", "candle", "desert", "engine", "forest", "garden", "hammer", "island", "jacket", "kettle",
    "lantern", "mirror", "needle", "orchard", "pencil", "river", "silver", "timber", "valley", "window", "yellow",
)  # fmt: skip
CLOSINGS = ("that is all", "so it goes on", "and they knew it")
FILLER = ("then", "we", "went", "on", "and", "it", "was", "good", "to", "see", "them", "there")
SCRIPTS = {"Greek": "και τοτε ειδαμε ολα αυτα μαζι", "Cyrillic": "потом мы видели это все вместе"}
"""Script to words in it."""

Check = Callable[[str, Any], bool]


def words(text: str) -> list[str]:
    """Its words in small letters: runs of letters of any script, with apostrophes inside."""
    runs: list[str] = re.findall(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*", text.lower())
    return [run for run in runs if any(sign.isalpha() for sign in run)]  # a half (\u00bd) is no letter and no digit


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _json(text: str, keys: list[str]) -> bool:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and list(found) == keys and all(isinstance(value, str) for value in found.values())


def _script(text: str, script: str) -> bool:
    return all(unicodedata.name(letter, "").startswith(script.upper()) for letter in text if letter.isalpha())


CHECKS: dict[str, tuple[Callable[[Any], str], Check]] = {
    "contains": (
        lambda wanted: f"Use {_listed(wanted)}.",
        lambda text, wanted: set(wanted) <= set(words(text)),
    ),
    "times": (
        lambda told: f'Use the word "{told[0]}" exactly {told[1]} times.',
        lambda text, told: words(text).count(told[0]) == told[1],
    ),
    "starts": (lambda word: f'Begin with the word "{word}".', lambda text, word: words(text)[:1] == [word]),
    "ends": (
        lambda closing: f'End with the words "{closing}" and nothing after them.',
        lambda text, closing: text.lower().endswith(closing),
    ),
    "json": (
        lambda keys: (
            f"Answer with one JSON object, whose keys are {_listed(keys)} in this order and whose values are "
            "texts, and with nothing else."
        ),
        _json,
    ),
    "bullets": (
        lambda count: f'Write {count} lines that each begin with "- ", and nothing else.',
        lambda text, count: len(_lines(text)) == count and all(line.startswith("- ") for line in _lines(text)),
    ),
    "script": (lambda script: f"Write in {script} letters only.", _script),
    "lines": (lambda count: f"Write exactly {count} lines.", lambda text, count: len(_lines(text)) == count),
    "at least": (lambda count: f"Write at least {count} words.", lambda text, count: len(words(text)) >= count),
    "at most": (lambda count: f"Write at most {count} words.", lambda text, count: len(words(text)) <= count),
    "avoids": (
        lambda banned: f"Do not use {_listed(banned)}.",
        lambda text, banned: not set(banned) & set(words(text)),
    ),
    "lower": (lambda _: "Use small letters only, no capitals.", lambda text, _: text == text.lower()),
    "upper": (lambda _: "Use CAPITALS only.", lambda text, _: text == text.upper()),
    "no commas": (lambda _: "Use no commas.", lambda text, _: "," not in text),
    "quoted": (
        lambda _: "Put the whole answer between double quotation marks.",
        lambda text, _: len(text) > 2 and text[0] == text[-1] == '"',
    ),
}
"""Name to what is asked for, in words, and whether a text without spaces at its ends does it."""

DEMANDS = ("contains", "times", "starts", "ends", "json", "bullets", "script")
"""One of these is in every problem: what remains would be met by nearly any text."""

EXCLUDES = {
    "json": {"bullets", "lines", "starts", "ends", "lower", "upper", "no commas", "quoted", "script"},
    "script": {"contains", "times", "starts", "ends", "lower", "upper", "avoids"},
    "bullets": {"lines", "starts", "quoted"},
    "quoted": {"starts", "ends"},
    "lower": {"upper"},
}
"""What one text cannot do at once."""


def task(spec: str, *, checks: range = range(1, 4), credit: Credit = "all") -> Task:
    """So many instructions at once, the number uniform over `checks`; `meta` has it as level.

    With `credit="share"` the score is the share of the instructions that are followed. Raises ValueError for more
    instructions than go together.
    """
    if checks[-1] > MOST_CHECKS:
        raise ValueError(f"checks is {checks[0]}-{checks[-1]}; at most {MOST_CHECKS} instructions go together")
    return Task(spec, loader(spec, partial(_draw, checks=checks)), partial(grade, credit=credit), worked=worked)


def grade(problem: Problem, trace: Trace, *, credit: Credit = "all") -> Verdict:
    """`parts` has each instruction's name with 1 or 0; a text without a word follows none."""
    if (verdict := unjudged(trace)) is not None:
        return verdict
    shown = after_thought(trace.text)
    if shown is None:
        return Verdict(score=0.0, note="the thought never closed")
    if len(shown) > LONGEST:
        return Verdict(score=0.0, note=f"refused: longer than {LONGEST} characters")
    text = shown.strip()
    any_word = bool(words(text))
    parts = {name: float(any_word and CHECKS[name][1](text, value)) for name, value in json.loads(problem.answer)}
    missed = [name for name, followed in parts.items() if not followed]
    share = 1 - len(missed) / len(parts)
    note = f"not followed: {', '.join(missed)}" if missed else "all followed"
    return Verdict(score=float(not missed) if credit == "all" else share, answer=text, note=note, parts=parts)


def worked(problem: Problem) -> str:
    """A text that follows every instruction, and makes no sense."""
    told = dict(json.loads(problem.answer))
    if "script" in told:
        filler, body = SCRIPTS[told["script"]].split(), []
    else:
        filler = list(FILLER)
        word, times = told.get("times", ("", 0))
        body = [*told.get("contains", ()), *[word] * times]
    body = [told["starts"], *body] if "starts" in told else body
    rows = told.get("bullets") or told.get("lines") or len(told.get("json", "x"))
    need = max(told.get("at least", 0), 2 * rows)
    body += [filler[place % len(filler)] for place in range(max(0, need - len(body)))]
    cut = [" ".join(body[row * len(body) // rows : (row + 1) * len(body) // rows]) for row in range(rows)]
    if "ends" in told:
        cut[-1] += f" {told['ends']}"
    if "json" in told:
        return json.dumps(dict(zip(told["json"], cut, strict=True)))
    text = "\n".join(f"- {line}" for line in cut) if "bullets" in told else "\n".join(cut)
    text = text.upper() if "upper" in told else text
    return f'"{text}"' if "quoted" in told else text


def _listed(items: list[str]) -> str:
    return " and ".join(
        [", ".join(f'"{item}"' for item in items[:-1]), f'"{items[-1]}"'] if items[1:] else [f'"{items[0]}"']
    )


def _draw(rng: random.Random, *, checks: range) -> Draft:
    while True:
        names = [rng.choice(DEMANDS)]
        for name in rng.sample(list(CHECKS), len(CHECKS)):
            if name not in names and not any(name in _against(other) for other in names):
                names.append(name)
        count = rng.choice(checks)
        if len(names) >= count:
            break
    pool = rng.sample(WORDS, len(WORDS))
    told = [[name, _value(name, rng, pool)] for name in names[:count]]
    rules = "\n".join(f"- {CHECKS[name][0](value)}" for name, value in told)
    question = f"Write about {rng.choice(TOPICS)}. Follow all of this:\n{rules}"
    answer = json.dumps(told, ensure_ascii=False)
    return Draft(question, question, answer, {"level": count, "checks": [name for name, _ in told]})


def _against(name: str) -> set[str]:
    return EXCLUDES.get(name, set()) | {other for other, excluded in EXCLUDES.items() if name in excluded}


def _value(name: str, rng: random.Random, pool: list[str]) -> Any:
    """What the instruction is about; words are taken from `pool`, so that no two are about the same."""
    match name:
        case "contains" | "avoids" | "json":
            return [pool.pop() for _ in range(rng.randint(2 if name == "json" else 1, 3))]
        case "times":
            return [pool.pop(), rng.randint(2, 4)]
        case "starts":
            return pool.pop()
        case "ends":
            return rng.choice(CLOSINGS)
        case "script":
            return rng.choice(list(SCRIPTS))
        case "bullets" | "lines":
            return rng.randint(2, 6)
        case "at least":
            return rng.randint(10, 30)
        case "at most":
            return rng.randint(50, 90)
        case _:
            return None
