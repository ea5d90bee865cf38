"""Traces that the store's tests write, and how."""

from __future__ import annotations

from typing import get_args

from forethought.store import Store
from forethought.types import Message, Step, Stop, Trace, Verdict, user

FULL = Trace(
    problem_id="sum/1",
    messages=(Message(role="system", content="Be brief."), Message(role="user", content="1+1? 🤔")),
    steps=(
        Step("two\n", (5, 2**31 - 1, 0), (-0.1, -1e-17, -1 / 3), stop="stop", action="plan", value=0.1 + 0.2),
        Step("", stop="end", sampled=False),
        Step("é\x00", logprobs=(float("-inf"),), stop="length", action="observe", value=-0.0),
    ),
    policy="tiny@3",
    tree="tiny@3/sum/1/7",
    nodes=(1, 4, 9),
    values=(None, 1 / 3, 0.0),
    verdicts={
        "grade": Verdict(1.0, answer="2", note="equal"),
        "prm": Verdict(None, steps=(0.25, None), parts={"clear": 1 / 7, "short": 2.0}, cost=2**40),
    },
)
BARE = Trace("sum/2", (), (), "m")


def traces(count: int, start: int = 0, policy: str = "m@1") -> list[Trace]:
    return [
        Trace(
            problem_id=f"p/{i % 7}",
            messages=user(f"{i}?"),
            steps=(Step(f"a{i}", tokens=tuple(range(i % 5)), stop=get_args(Stop)[i % 5]), Step(f"b{i}")),
            policy=policy,
            tree=f"t/{i // 2}",
            nodes=(i + 1,),
            verdicts={"grade": Verdict(None if i % 4 == 3 else (i % 4) / 2)},
        )
        for i in range(start, start + count)
    ]


def fill(store: Store, kept: list[Trace], run: str = "r", **options: int) -> None:
    with store.writer(run, **options) as writer:
        writer.extend(kept)
