"""The process that makes reasoning-gym's problems and asks its scorers; `gym` starts it, feeds it, and kills it.

One JSON line in: `{"name": ..., "level": ..., "index": ...}` makes a problem, and with `gold` and `answer` it scores an
answer to it. One line out for the first, two for the second: `read` or `gold unread`, which tells whose fault a hang
is, and the score, or `null` where the scorer raised.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import resource
import sys
from typing import Any

MEMORY = 2 * 1024**3
"""Bytes of address space."""


def main() -> None:
    """Answer until standard input closes."""
    words = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout = sys.stderr  # whatever a library prints must not be taken for a word
    factory: Any = importlib.import_module("reasoning_gym.factory")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    def say(word: str) -> None:
        print(word, file=words, flush=True)

    @functools.lru_cache(maxsize=64)
    def dataset(name: str, level: int) -> Any:
        curriculum = factory.create_curriculum(name)
        most = max(len(each.levels) for each in curriculum.attributes.values()) - 1
        if level > most:
            raise ValueError(f"its levels are 0 to {most}")
        curriculum.set_global_level(level)
        # Its size is what it tells, not what it can make: an index beyond it is as good.
        return factory.DATASETS[name][0](curriculum.generate_configuration({"seed": 0}))

    @functools.lru_cache(maxsize=1024)
    def entry(name: str, level: int, index: int) -> Any:
        return dataset(name, level)[index]

    say("ready")
    for line in sys.stdin:
        request = json.loads(line)
        where = request["name"], request["level"], request["index"]
        if "answer" not in request:
            say(json.dumps(_made(entry, where)))
            continue
        made = _made(entry, where)
        if made.get("answer") != request["gold"]:
            say("gold unread")
            continue
        say("read")
        try:
            score = float(dataset(*where[:2]).score_answer(request["answer"], entry(*where)))
        except Exception:  # noqa: BLE001 - the sandbox's wall: a scorer may raise anything
            score = None
        say(json.dumps(score))


def _made(entry: Any, where: tuple[str, int, int]) -> dict[str, Any]:
    try:
        made = entry(*where)
    except Exception as error:  # noqa: BLE001 - the sandbox's wall: what cannot be made is told, in its words
        return {"fault": str(error) or type(error).__name__}
    facts = {key: made["metadata"][key] for key in ("numbers", "target") if key in made["metadata"]}
    return {"question": made["question"], "answer": str(made["answer"]), "facts": facts}


if __name__ == "__main__":
    main()
