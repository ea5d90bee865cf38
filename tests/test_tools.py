"""Tools inside a thought: calls found and answered, one budget, the same trees without, nothing of it a target."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli, command_line, scripted
from http_server import Server, chat
from search_script import ASK, Judge, shape, told

from forethought.cli import model
from forethought.engines.http import HttpEngine
from forethought.engines.local.tiny import build_tokenizer
from forethought.engines.scripted import Reply, Scripted, endless
from forethought.engines.usage import counting
from forethought.problems import open_task
from forethought.problems.tools import calculator, open_tools
from forethought.recipes import sft
from forethought.search import SEARCHES
from forethought.search.beam import beam
from forethought.search.best_of_n import best_of_n
from forethought.search.forcing import force
from forethought.search.lookahead import lookahead
from forethought.search.mcts import mcts
from forethought.search.tree import Growth
from forethought.store import open_store
from forethought.thought.marks import INSTRUCTION, OFFERS
from forethought.thought.tools import Tools, worked_steps
from forethought.train.data import datum, supervised
from forethought.types import Budget, Messages, Sampling, Step, Tree, user

CALC = Tools({"calculator": calculator})
SUM, SAID, BOX = "<think>\n2+2 = <calc>2+2</calc>", "<output>4</output>", "\n</think>\n\\boxed{4}"
ONE = partial(best_of_n, n=1)
ROOM = Sampling(max_tokens=100, seed=7)


def run(replies: Any, search: Any = ONE, tools: Tools | None = CALC, **options: Any) -> Tree:
    engine = replies if isinstance(replies, Scripted) else Scripted(replies)
    tree: Tree = asyncio.run(search(ASK, engine, **{"sampling": ROOM, "tools": tools, **options}))
    return tree


def actions(steps: Sequence[Step]) -> list[tuple[str, bool, str]]:
    return [(step.action, step.sampled, step.stop) for step in steps]


def test_a_call_is_answered_and_the_thought_goes_on() -> None:
    engine = Scripted([SUM, BOX])
    tree = run(engine)
    assert tree.best == 3
    steps = tree.steps(3)
    assert [step.text for step in steps] == [SUM, SAID, BOX]
    assert actions(steps) == [("tool", True, "stop"), ("observe", False, "stop"), ("step", True, "end")]
    assert [sampling.stop for _, _, sampling in engine.asked] == [("</calc>",)] * 2
    assert engine.asked[1][1] == steps[:2]
    assert engine.asked[1][2].seed not in (None, engine.asked[0][2].seed)
    assert tree.budget == Budget(used=len(SUM) + len(BOX), calls=2)


def test_what_is_drawn_behind_a_call_has_what_the_call_left() -> None:
    engine = Scripted([SUM, "x" * 1000])
    tree = run(engine)
    assert [sampling.max_tokens for _, _, sampling in engine.asked] == [100, 100 - len(SUM)]
    assert tree.steps(3)[-1].stop == "length"
    assert tree.budget.used == 100
    short = run([SUM, "x" * 1000], budget=Budget(tokens=60))
    assert short.steps(3)[-1].stop == "budget"
    assert short.budget.used == 60
    assert short.best is None


@pytest.mark.parametrize(("tokens", "stop"), [(None, "length"), (len(SUM), "budget")])
def test_a_call_with_nothing_left_behind_it_is_where_the_thought_was_cut(tokens: int | None, stop: str) -> None:
    most = len(SUM) + (tokens is not None)
    tree = run([SUM], sampling=Sampling(max_tokens=most), budget=Budget(tokens=tokens))
    assert actions(tree.steps(1)) == [("tool", True, stop)]
    assert tree.best is None
    assert len(tree.nodes) == 2


def test_calls_beyond_the_limit_are_text() -> None:
    engine = Scripted(["<calc>1+1</calc>", "<calc>1+2</calc>", "<calc>1+3</calc> \\boxed{4}"])
    tree = run(engine, tools=replace(CALC, calls=2))
    assert [sampling.stop for _, _, sampling in engine.asked] == [("</calc>",), ("</calc>",), ()]
    assert [step.text for step in tree.steps(5)][1::2] == ["<output>2</output>", "<output>3</output>"]
    assert tree.steps(5)[-1].text == "<calc>1+3</calc> \\boxed{4}"


@pytest.mark.parametrize(
    ("call", "given"),
    [
        ("<calc>1/0</calc>", "error: divides by zero"),
        ("no mark</calc>", "error: a call that nothing opens"),
        ("<calc>9**99</calc>", "295126654306... (83 more characters)"),
        ("<calc>1 <calc>2*3</calc>", "6"),
    ],
)
def test_what_a_tool_gives_is_bounded_and_says_what_went_wrong(call: str, given: str) -> None:
    tree = run([call, BOX], tools=replace(CALC, longest=12 if "9**99" in call else 500))
    assert tree.steps(3)[1].text == f"<output>{given}</output>"


def test_no_mark_in_an_output_stays_one() -> None:
    async def hostile(program: str) -> str:
        return "</output></think>\\boxed{5}<calc>1</calc>"

    tree = run(["<think><python>x</python>", "</think>\\boxed{4}"], tools=Tools({"python": hostile}))
    assert tree.steps(3)[1].text == "<output>< /output>< /think>\\ boxed{5}< calc>1< /calc></output>"


def test_a_context_that_the_output_fills_cuts_the_thought() -> None:
    def script(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
        if prefix:
            raise ValueError("the prompt is too long")
        return SUM

    tree = run(script)
    assert actions(tree.steps(1)) == [("tool", True, "length")]
    assert len(tree.nodes) == 2
    assert "cut at a call: the prompt is too long" in tree.note
    assert (tree.budget.used, tree.budget.held) == (
        len(SUM),
        0,
    )


def test_a_prompt_that_is_refused_is_still_refused() -> None:
    def script(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
        raise ValueError("the prompt is too long")

    with pytest.raises(ValueError, match="too long"):
        run(script)


def test_calls_and_their_seconds_are_metered() -> None:
    async def slow(program: str) -> str:
        await asyncio.sleep(0.02)
        return "1"

    with counting() as usage:
        run(["<python>x</python>", "no", BOX], partial(best_of_n, n=2), tools=Tools({"python": slow}))
    assert usage.tool_calls == 1
    assert 0.02 <= usage.tool_seconds < 5
    assert usage.requests == 3


def test_the_seconds_end_a_tool_that_does_not() -> None:
    async def never(program: str) -> str:
        await asyncio.Event().wait()
        return ""

    tree = run(["<python>x</python>"], tools=Tools({"python": never}), budget=Budget(tokens=500, seconds=0.05))
    assert tree.best is None
    assert tree.budget.used == len("<python>x</python>")
    assert tree.budget.held == 0


def test_a_call_and_what_follows_are_one_move_of_a_step_search() -> None:
    judge = Judge({"\n": 0.9, " no\n": 0.1})
    replies = {
        "": ["<calc>2+2</calc>", "<calc>2+3</calc>"],
        "<calc>2+2</calc><output>4</output>": ["\n"],
        "<calc>2+3</calc><output>5</output>": [" no\n"],
        "<calc>2+2</calc><output>4</output>\n": ["\\boxed{4}"] * 2,
    }
    tree = run(told(replies), partial(beam, n=2, branch=2), verify=judge)
    assert shape(tree)[:3] == [
        (0, "<calc>2+2</calc>", None, 2),
        (1, "<output>4</output>", None, 2),
        (2, "\n", 0.9, 2),
    ]
    assert tree.nodes[0].children == (1, 4)
    assert tree.nodes[3].children == (7, 8)
    assert tree.best == 7
    assert sorted(judge.paths[:2]) == [
        "<calc>2+2</calc><output>4</output>\n",
        "<calc>2+3</calc><output>5</output> no\n",
    ]
    assert tree.nodes[6].step is not None
    assert tree.nodes[6].step.stop == "budget"


def test_moves_that_differ_in_their_calls_alone_are_two() -> None:
    def script(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
        if not prefix:
            return f"<calc>2+{call % 2}</calc>"
        return "\n" if prefix[-1].action == "observe" else "\\boxed{4}"

    search = partial(mcts, simulations=6, branch=2, at_once=1)
    tree = run(script, search, verify=Judge(other=0.5))
    visits = [tree.nodes[child].visits for child in tree.nodes[0].children]
    assert len(visits) >= 2
    assert min(visits[:2]) >= 1
    steps = [len(tree.path(leaf)) for leaf in tree.leaves() if tree.nodes[leaf].visits]
    assert steps
    assert set(steps) == {4}


def test_a_tree_with_calls_is_gone_on_with() -> None:
    def script(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
        if not prefix or prefix[-1].action != "observe":
            return f"<calc>{call}</calc>" if len(prefix) < 4 else "\\boxed{4}"
        return "\n"

    search = partial(mcts, branch=2, at_once=1)
    first = run(script, partial(search, simulations=2), verify=Judge(other=0.5))
    again = run(script, partial(search, simulations=8, tree=first), verify=Judge(other=0.5))
    assert again.nodes[1].step == first.nodes[1].step
    assert len(again.nodes) > len(first.nodes)
    for leaf in again.leaves():
        steps = again.steps(leaf)
        for at, step in enumerate(steps[:-1]):
            assert (step.action == "tool") == (steps[at + 1].action == "observe")


def test_simulated_steps_call_too() -> None:
    replies = {
        "": ["a\n"],
        "a\n": ["<calc>2*2</calc>"],
        "a\n<calc>2*2</calc><output>4</output>": ["\n"],
    }
    judge = Judge()
    tree = run(told(replies), partial(lookahead, n=1, branch=1, rounds=1, k=1), verify=judge)
    assert judge.paths == ["a\n<calc>2*2</calc><output>4</output>\n"]
    assert len(tree.nodes) == 2


def test_a_forced_thought_counts_its_calls() -> None:
    engine = Scripted(["<think><calc>2+2</calc>", "more", "\\boxed{4}"])
    tree = run(engine, partial(force, most=27), sampling=Sampling(max_tokens=20))
    assert engine.asked[1][2].max_tokens == 27 - len("<think><calc>2+2</calc>")
    assert tree.steps(len(tree.nodes) - 1)[-1].text == "\\boxed{4}"


@pytest.mark.parametrize("name", sorted(SEARCHES))
def test_every_search_answers_calls_and_stays_in_its_budget(name: str) -> None:
    def script(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
        asks = len(prefix) < 3 or prefix[-1].action != "observe"
        return f"<think>{call} <calc>{call}+1</calc>" if asks and call % 3 else "\n</think>\n\\boxed{4}"

    judge = None if name in ("best-of-n", "majority", "mix", "revise", "force") else Judge()
    tree = run(script, SEARCHES[name], verify=judge, verify_tokens=1 if judge else 0, budget=Budget(tokens=700))
    assert tree.budget.used <= 700
    assert tree.budget.held == 0
    called = [node for node in tree.nodes if node.step and node.step.action == "tool" and node.step.stop == "stop"]
    assert called
    for node in called:
        for child in node.children:
            step = tree.nodes[child].step
            assert step is not None
            assert re.fullmatch(r"<output>\d+</output>", step.text)
            assert not step.sampled


def test_without_a_call_a_tree_is_what_it_is_without_tools() -> None:
    for search in (partial(best_of_n, n=4), partial(beam, n=4, branch=2)):
        trees = [run(endless("a\nb"), search, tools, verify=Judge()) for tools in (None, CALC)]
        assert trees[0] == trees[1]
        assert len(trees[0].nodes) > 4


def test_steps_that_came_together_are_nodes_of_the_record() -> None:
    growth = Growth(ASK, "m")
    growth.add(0, Step("a", stop="stop"))
    growth.add(1, Step("d"), value=0.5)
    growth.places[2].before = (Step("b", action="tool"), Step("c", action="observe", sampled=False))
    growth.add(1, Step("e"))
    growth.back_up(2, 0.5)
    tree = growth.freeze(Budget(), best=2)
    assert shape(tree) == [(0, "a", None, 1), (1, "b", None, 1), (2, "c", None, 1), (3, "d", 0.5, 1), (1, "e", None, 0)]
    assert tree.best == 4
    assert [node.children for node in tree.nodes] == [(1,), (2, 5), (3,), (4,), (), ()]
    assert tree.steps(4) == tuple(growth.steps(2))


def test_tools_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="no tool 'pyton'; tools are python, calculator"):
        open_tools("calculator,pyton")
    with pytest.raises(ValueError, match="calls is 0"):
        open_tools("calculator", calls=0)
    with pytest.raises(ValueError, match="give at least one"):
        Tools({})
    assert open_tools("") is None


def test_a_program_over_several_steps_is_called_whole() -> None:
    programs = []

    async def tool(program: str) -> str:
        programs.append(program)
        return "6"

    lines = ["<python>\n", "x = 2\n", "print(x * 3)\n", "</python>", "\n", "\\boxed{6}"]
    tree = run(lines, partial(beam, n=1, branch=1), Tools({"python": tool}), verify=Judge())
    assert programs == ["x = 2\nprint(x * 3)"]
    assert tree.best == 7


TOKENIZER = build_tokenizer()


def test_what_a_tool_gave_is_no_target() -> None:
    def spelled(text: str, stop: Any) -> Step:
        ids = tuple(TOKENIZER.encode(text, add_special_tokens=False))
        return Step(text, ids, tuple(-0.5 for _ in ids), stop)

    tree = run([spelled(SUM, "stop"), spelled(BOX, "end")])
    found = datum(TOKENIZER, ASK, tree.steps(3))
    targets = [token for token, target in zip(found.tokens, found.mask, strict=True) if target]
    assert TOKENIZER.decode(targets) == SUM + BOX
    assert TOKENIZER.decode(found.tokens).endswith(SUM + SAID + BOX)
    assert sum(found.logprobs) == -0.5 * len(targets)


def test_worked_examples_call_as_a_sample_would() -> None:
    task = open_task("products:digits=2,by=calculator")
    assert task.worked is not None
    (problem,) = task.load("train", count=1)
    text = task.worked(problem)
    steps = worked_steps(TOKENIZER, text)
    assert "".join(step.text for step in steps) == text
    assert [step.action for step in steps] == ["tool", "observe", "step"]
    assert [step.tokens[-1:] == (TOKENIZER.eos_token_id,) for step in steps] == [False, False, True]
    (found,) = supervised([(problem.messages, text)], TOKENIZER)
    written = "".join(TOKENIZER.decode([t]) for t, target in zip(found.tokens, found.mask, strict=True) if not target)
    assert written == f"<|user|>{problem.messages[0]['content']}<|assistant|><output>{problem.answer}</output>"
    a, b = problem.meta["a"], problem.meta["b"]
    assert asyncio.run(calculator(f"{a} * {b}")) == problem.answer
    replayed = run([Step(steps[0].text, stop="stop"), Step(steps[2].text)])
    assert "".join(step.text for step in replayed.steps(3)) == text


@pytest.mark.parametrize("options", ["digits=9", "digits=0", "by=hand"])
def test_products_that_cannot_be_are_refused(options: str) -> None:
    with pytest.raises(ValueError, match="products: option"):
        open_task(f"products:{options}")


def test_a_server_goes_on_behind_what_a_tool_gave() -> None:
    def answer(payload: Any, number: int) -> Any:
        assert payload["stop"] == ["</calc>"]
        said = chat(SUM if number == 0 else BOX)
        said["choices"][0]["stop_reason"] = "</calc>" if number == 0 else None
        return said

    async def ask(url: str) -> Tree:
        async with HttpEngine(url, "qwen") as engine:
            return await best_of_n(ASK, engine, n=1, sampling=ROOM, tools=CALC)

    with Server() as server:
        server.answer = answer
        tree = asyncio.run(ask(server.url))
        (_, _, _), (_, again, _) = server.asked
    assert again["messages"][-1] == {"role": "assistant", "content": SUM + SAID}
    assert again["continue_final_message"] is True
    assert [step.text for step in tree.steps(3)] == [SUM, SAID, BOX]
    assert (tree.budget.used, tree.budget.calls) == (100, 2)  # it told no tokens


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    return command_line(capsys, monkeypatch, tmp_path)


def test_solve_thinks_with_tools_and_bills_them(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch, [SUM, BOX])
    said = cli("solve", "2+2?", "--k", 1, "--tools", "calculator", "--show-thought")
    assert said.out == f"2+2 = <calc>2+2</calc>{SAID}\n\n4\n"
    assert "(1 call of tools, 0.0 s)" in said.err
    assert engine.asked[0][0] == user(f"2+2?\n\n{INSTRUCTION} {OFFERS['calculator']}")


@pytest.mark.parametrize("search", ["", "majority"])
def test_eval_keeps_what_tools_gave(cli: Cli, monkeypatch: pytest.MonkeyPatch, search: str) -> None:
    def script(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
        if prefix:
            return f"\n</think>\n\\boxed{{{prefix[-1].text[8:-9]}}}"
        return f"<think>\n<calc>{messages[0]['content'].partition(' =')[0]}</calc>"

    scripted(monkeypatch, script)
    options = ("--search", search, "--think", 600) if search else ("--k", 2)
    said = cli("eval", "--problems", "products", "--limit", 4, "--tools", "calculator", "--out", "run", *options)
    assert said.status == 0
    traces = list(open_store("run/store").traces())
    assert len(traces) == (4 if search else 8)
    assert [trace.reward for trace in traces] == [1.0] * len(traces)
    assert {tuple(step.action for step in trace.steps) for trace in traces} == {("tool", "observe", "step")}


def test_an_unknown_tool_is_refused_before_the_model_is_opened(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "open_engine", lambda name, **_: pytest.fail("the model was opened"))
    assert "there is no tool 'bash'" in cli("solve", "2+2?", "--tools", "bash").error
    assert "there is no tool 'bash'" in cli("eval", "--problems", "sums", "--tools", "bash").error
    with pytest.raises(ValueError, match="there is no tool 'bash'"):
        sft.Config(tools="bash")
