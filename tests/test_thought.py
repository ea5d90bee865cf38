"""Marks read and written, steps cut with their tokens exact, tokens rendered in one way."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from forethought.thought import marks, steps, tokens
from forethought.types import Step, user

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


# marks


def test_a_composed_example_reads_back() -> None:
    text = marks.compose(" 2 + 3 = 5\n5 + 4 = 9 \n", "9")
    assert text == "<think>\n2 + 3 = 5\n5 + 4 = 9\n</think>\n\\boxed{9}"
    assert marks.thought_of(text) == "2 + 3 = 5\n5 + 4 = 9"
    assert marks.after_thought(text) == "\n\\boxed{9}"
    assert marks.boxes(text) == ["9"]
    assert marks.boxes(marks.direct("3/4")) == ["3/4"]


@pytest.mark.parametrize(
    ("text", "thought", "shown"),
    [
        ("just an answer", "", "just an answer"),
        ("", "", ""),
        ("<think>a</think>b", "a", "b"),
        ("a</think>b", "a", "b"),  # the template opened the thought in the prompt
        ("<think>a \\boxed{1}", "a \\boxed{1}", None),
        ("before <think>a</think>b", "a", "b"),
        ("<think></think>b", "", "b"),
        ("<think>a</think>b<think>c</think>d", "a</think>b<think>c", "d"),
        # A thought that was opened again is still open: nothing after it may be shown as an answer.
        ("<think>a</think>b<think>c \\boxed{1}", "a</think>b<think>c \\boxed{1}", None),
        ("a</think>b<think>c", "a</think>b<think>c", None),
    ],
)
def test_thought_and_what_is_shown(text: str, thought: str, shown: str | None) -> None:
    assert marks.thought_of(text) == thought
    assert marks.after_thought(text) == shown


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("no box", []),
        (r"\boxed{1} then \boxed{ 2 }", ["1", "2"]),
        (r"\boxed{\frac{1}{2}}", [r"\frac{1}{2}"]),
        (r"\boxed{}", [""]),
        (r"\boxed{1", []),
        (r"\boxed{1 \boxed{2}", ["2"]),  # the first never closes
        (r"\boxed{a \boxed{b}} \boxed{c}", [r"a \boxed{b}", "c"]),
        (r"{ \boxed{3} and } } \boxed{4}", ["3", "4"]),
        (r"\boxed{\{1, 2\}}", [r"\{1, 2\}"]),
        (r"\boxed{\left\{ x \right.}", [r"\left\{ x \right."]),  # one escaped brace is a letter
        (r"\boxed{1 \\} 2}", [r"1 \\"]),  # an escaped backslash, then a brace that closes
        ("boxed{7}", ["7"]),  # a backslash lost on the way, as in "\b" read by JSON
        (r"\fbox{8}", []),
        ("\\boxed{a\nb}", ["a\nb"]),
    ],
)
def test_boxes(text: str, found: list[str]) -> None:
    assert marks.boxes(text) == found


@pytest.mark.parametrize("text", ["\\boxed{" * 5_000, "\\boxed{" * 5_000 + "}" * 5_000, "{" * 50_000])
def test_boxes_of_a_hostile_text_take_no_time(text: str) -> None:
    start = time.process_time()
    assert len(marks.boxes(text)) <= 1
    assert time.process_time() - start < 2


# steps


class Bytes:
    """A byte-level vocabulary of chunks: any text can be cut anywhere, inside a character too. Id 0 ends."""

    def __init__(self) -> None:
        self.pieces = [b""]

    def cut(self, text: str, rng: random.Random) -> tuple[int, ...]:
        raw, ids = text.encode(), []
        while raw:
            size = rng.randint(1, 5)
            self.pieces.append(raw[:size])
            ids.append(len(self.pieces) - 1)
            raw = raw[size:]
        return tuple(ids)

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self.pieces[index] for index in ids).decode(errors="replace")


def joined(moves: Sequence[Step]) -> tuple[str, tuple[int, ...], tuple[float, ...]]:
    return (
        "".join(move.text for move in moves),
        tuple(token for move in moves for token in move.tokens),
        tuple(logprob for move in moves for logprob in move.logprobs),
    )


@pytest.mark.parametrize("mark", ["\n", "\n\n", "</step>"])
def test_any_step_is_cut_without_a_loss(mark: str) -> None:
    cuts = 0
    for seed in range(400):
        rng, vocabulary = random.Random(seed), Bytes()
        text = "".join(rng.choice(["a", " b", "7", "é", "😀", "\n", mark, mark]) for _ in range(rng.randint(0, 30)))
        ids = vocabulary.cut(text, rng) + (0,) * rng.randint(0, 1)
        step = Step(text, ids, tuple(-rng.random() for _ in ids), stop=rng.choice(["end", "length"]), action="check")
        moves = steps.split(step, vocabulary.decode, mark)
        assert joined(moves) == (step.text, step.tokens, step.logprobs), seed
        assert all(mark in move.text and move.stop == "stop" and move.tokens for move in moves[:-1]), seed
        assert all(vocabulary.decode(move.tokens) == move.text for move in moves), seed
        assert all(move.text for move in moves) or len(moves) == 1, seed
        assert moves[-1].stop == step.stop
        assert {move.action for move in moves} == {"check"}
        cuts += len(moves) - 1
    assert cuts > 400  # the loop did cut


def spelled(text: str) -> tuple[int, ...]:
    return tuple(ord(letter) for letter in text)


def spell(ids: Sequence[int]) -> str:
    return "".join(chr(index) for index in ids if index)


def test_every_line_is_a_move_where_tokens_are_letters() -> None:
    moves = steps.split(Step("a\nbc\nd", spelled("a\nbc\nd")), spell)
    assert [move.text for move in moves] == ["a\n", "bc\n", "d"]
    assert [move.stop for move in moves] == ["stop", "stop", "end"]


def test_the_end_token_is_no_move_of_its_own() -> None:
    step = Step("a\nb\n", (*spelled("a\nb\n"), 0), (-1.0, -2.0, -3.0, -4.0, -5.0))
    moves = steps.split(step, spell)
    assert [move.text for move in moves] == ["a\n", "b\n"]
    assert moves[-1] == replace(step, text="b\n", tokens=(*spelled("b\n"), 0), logprobs=(-3.0, -4.0, -5.0))


def test_a_character_in_two_tokens_is_not_cut_through() -> None:
    vocabulary = Bytes()
    vocabulary.pieces += [b"a\n\xc3", b"\xa9", b"b"]  # é begins in the token that holds the mark
    moves = steps.split(Step("a\néb", (1, 2, 3)), vocabulary.decode)
    assert [(move.text, move.tokens) for move in moves] == [("a\né", (1, 2)), ("b", (3,))]


def test_a_blank_that_decoding_drops_is_kept() -> None:
    """Sentencepiece decodes a sequence without the blank before its first word."""
    words = {1: " a", 2: "\n", 3: " b", 4: " c"}
    moves = steps.split(
        Step("a\n b\n c", (1, 2, 3, 2, 4)), lambda ids: "".join(words[index] for index in ids).removeprefix(" ")
    )
    assert [(move.text, move.tokens) for move in moves] == [("a\n", (1, 2)), (" b\n", (3, 2)), (" c", (4,))]


def test_tokens_that_do_not_spell_the_text_stay_whole() -> None:
    step = Step("something else", spelled("a\nb"))
    assert steps.split(step, spell) == (step,)


@pytest.mark.parametrize(
    ("text", "cut"),
    [("a\nb", ["a\n", "b"]), ("a\nb\n", ["a\n", "b\n"]), ("a", ["a"]), ("", [""]), ("\n", ["\n"])],
)
def test_without_tokens_the_text_is_cut(text: str, cut: list[str]) -> None:
    moves = steps.split(Step(text, stop="length"), spell)
    assert [move.text for move in moves] == cut
    assert [move.stop for move in moves] == ["stop"] * (len(cut) - 1) + ["length"]


def test_a_long_line_is_not_decoded_anew_for_each_token() -> None:
    decoded = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal decoded
        decoded += len(ids)
        return spell(ids)

    text = "a" * 2_000 + "\n" + "b" * 2_000
    assert len(steps.split(Step(text, spelled(text)), decode)) == 2
    assert decoded <= 3 * len(text)


# tokens


class Letters:
    """A tokenizer of one token a letter, 1 to begin a text and 0 to end it."""

    chat_template: Any = None
    eos_token_id: Any = 0

    def apply_chat_template(self, conversation: Any, **options: Any) -> str:
        assert options == {"tokenize": False, "add_generation_prompt": True}
        turns = "".join(f"[{turn['role']}]{turn['content']}" for turn in conversation)
        return turns + "[assistant]"

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [1, *spelled(text)] if add_special_tokens else [*spelled(text)]

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> str:
        return spell(token_ids)


def chat() -> Letters:
    tokenizer = Letters()
    tokenizer.chat_template = "a template"
    return tokenizer


def test_a_prompt_ends_where_the_assistant_begins() -> None:
    assert tokens.prompt_tokens(chat(), user("Q")) == spelled("[user]Q[assistant]")  # the template writes its own start


def test_without_a_template_the_prompt_is_plain_text() -> None:
    assert tokens.prompt_tokens(Letters(), (*user("A"), *user("B"))) == (1, *spelled("A\n\nB\n"))


def test_rendering_keeps_sampled_tokens_and_encodes_the_rest() -> None:
    odd = Step("ab", tokens=(500, 501))  # not how this tokenizer would spell it: what was sampled stays
    wrote = Step("Wait", sampled=False)
    ids, spans = tokens.render(chat(), user("Q"), (odd, wrote, Step("", ())))
    prompt = spelled("[user]Q[assistant]")
    assert ids == (*prompt, 500, 501, *spelled("Wait"))
    assert [ids[start:end] for start, end in spans] == [(500, 501), spelled("Wait"), ()]
    assert spans[0][0] == len(prompt)
    assert tokens.render(chat(), user("Q"), ()) == (prompt, [])


def test_a_thought_renders_the_same_whole_and_split() -> None:
    text = marks.compose("1 + 1 = 2\n2 + 1 = 3", "3")
    step = tokens.worked_step(chat(), text)
    assert step == Step(text, (*spelled(text), 0), stop="end")
    moves = steps.split(step, spell)
    assert [move.text for move in moves] == ["<think>\n", "1 + 1 = 2\n", "2 + 1 = 3\n", "</think>\n", "\\boxed{3}"]
    assert tokens.render(chat(), user("Q"), moves)[0] == tokens.render(chat(), user("Q"), (step,))[0]


def test_a_worked_example_needs_an_end_token() -> None:
    tokenizer = Letters()
    tokenizer.eos_token_id = None
    with pytest.raises(ValueError, match="no end token"):
        tokens.worked_step(tokenizer, "a")
