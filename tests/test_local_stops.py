"""Why a row ends: every stop its own, and stop strings wherever tokens and characters part."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from local_engines import run, tiny_engine
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from forethought.engines.local import LocalEngine, TinyConfig
from forethought.engines.local.stops import Stops
from forethought.engines.local.tiny import build
from forethought.types import Sampling, user


def test_every_stop_is_its_own() -> None:
    engine = tiny_engine()
    free = run(engine.sample(user("go"), (), Sampling(max_tokens=40, seed=1)))
    assert free.stop == "length"
    assert len(free.tokens) == 40
    mark = free.text[10:13]
    stopped = run(engine.sample(user("go"), (), Sampling(max_tokens=40, seed=1, stop=(mark,))))
    assert stopped.stop == "stop"
    assert stopped.text == free.text[: free.text.index(mark) + 3]
    assert stopped.tokens == free.tokens[: len(stopped.tokens)]
    ending = tiny_engine()
    ending._loop.ends = frozenset({free.tokens[5]})
    ended = run(ending.sample(user("go"), (), Sampling(max_tokens=40, seed=1)))
    assert ended.stop == "end"
    assert ended.tokens == free.tokens[:6]  # the end token is part of what was sampled


def test_the_end_token_comes_from_the_tokenizer_and_from_the_generation_config() -> None:
    model, tokenizer = build(TinyConfig(layers=1, width=32))
    model.generation_config.eos_token_id = [7, 9]
    assert LocalEngine(model, tokenizer, name="tiny")._loop.ends == {7, 9, tokenizer.eos_token_id}


def test_the_context_ends_a_thought_as_a_limit_does() -> None:
    near = run(tiny_engine().sample(user("9" * 110), (), Sampling(max_tokens=50, seed=0)))
    assert (near.stop, len(near.tokens)) == ("length", 128 - 112)


def test_a_stop_string_in_the_prompt_or_in_an_earlier_step_ends_nothing() -> None:
    engine = tiny_engine()
    free = run(engine.sample(user("go"), (), Sampling(max_tokens=12, seed=1)))
    unseen = next(mark for mark in "#@^~|" if mark not in free.text)
    asked = run(
        engine.sample(user(f"go{unseen}"), (), Sampling(max_tokens=1, seed=1, stop=(f"{unseen}{free.text[0]}",)))
    )
    assert asked.stop == "length"


def byte_level() -> Tokenizer:
    """Bytes and some longer tokens; `z` is in none but `yz` and `xyz`, and the euro sign takes two tokens or three."""
    letters = [letter for letter in sorted(pre_tokenizers.ByteLevel.alphabet()) if letter != "z"]
    extra = ["yz", "xyz", "ab", "ba", "aab", "Ġa", "bĠ", "Ġ\u010a", "âĤ", "¬a"]
    tokens = [*letters, *extra]
    inner = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="a"))
    inner.decoder = decoders.ByteLevel()
    return inner


def metaspace() -> Tokenizer:
    """As Llama 2's and Mistral's: blanks belong to the word behind them, and the text's first one is dropped."""
    tokens = ["▁", "▁a", "▁b", "a", "b", "ab", "▁▁", "b▁", "."]
    inner = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="a"))
    inner.decoder = decoders.Metaspace()
    return inner


@pytest.mark.parametrize("tokenizer", [byte_level(), metaspace()], ids=["byte level", "metaspace"])
def test_a_stop_string_is_found_at_the_token_that_completes_it(tokenizer: Any) -> None:
    """Against decoding everything after every token."""
    draw, found = random.Random(0), 0
    vocabulary = tokenizer.get_vocab()
    likely = [(index,) for token, index in sorted(vocabulary.items()) if set(token) & set("abxyz▁ĠĊâĤ¬.")]
    if "âĤ" in vocabulary:
        likely += [tuple(vocabulary[byte] for byte in "âĤ¬")] * 3
    strings = ["b", "ab", " a", "a ", " ", "ba b", "z", "yza", "€", "a€", "€€", "\n", " \n", "b.", ". a"]
    for _ in range(400):
        stops = tuple(draw.sample(strings, draw.randrange(1, 3)))
        finder, tokens = Stops(tokenizer.decode), []
        for token in itertools.chain.from_iterable(draw.choices(likely, k=draw.randrange(1, 30))):
            tokens.append(token)
            text = tokenizer.decode(tokens)
            ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
            told = finder.text(tokens, stops)
            assert told == (text[: min(ends)] if ends else None), (tokens, stops)
            if ends:
                found += 1
                break
    assert found > 100
