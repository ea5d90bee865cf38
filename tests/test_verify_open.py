"""From a name to a verifier, and what each wrong name is told."""

from __future__ import annotations

import gc
import math
from pathlib import Path
from typing import Any

import pytest
from http_server import Server, chat
from judges import THOUGHT, Judge, ask

from forethought.engines.local import LocalEngine, TinyConfig
from forethought.engines.local.tiny import build
from forethought.types import Step
from forethought.verify.heads import Head, save
from forethought.verify.open import open_verifier
from forethought.verify.verdict import sigmoid

WIDTH = 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as a recipe leaves it: in the newest checkpoint of a run."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints" / "step-000004"
    model, tokenizer = build(TinyConfig(layers=1, width=WIDTH, context=64))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "state.json").write_text("{}")
    return folder


@pytest.mark.parametrize("kind", ["outcome", "process", "bradley_terry", "value"])
def test_a_trained_head_is_opened_by_its_folder_or_its_run(checkpoint: Path, kind: Any) -> None:
    """A weight of 0 says its bias everywhere: at the end of each of the five lines of these four steps."""
    save(checkpoint, Head(kind, (0.0,) * WIDTH, 1.5, "product"))
    chance = sigmoid(1.5)
    for spec in (checkpoint, checkpoint.parent.parent):
        (verdict,) = ask(open_verifier(str(spec)), THOUGHT)
        assert verdict.score == pytest.approx(chance ** (5 if kind in ("process", "value") else 1), rel=1e-6)
        assert len(verdict.steps) == (4 if kind in ("process", "value") else 0)


def test_a_value_head_is_put_on_the_engine_that_is_given(checkpoint: Path) -> None:
    save(checkpoint, Head("value", (0.0,) * WIDTH, 1.5))
    policy = LocalEngine(*build(TinyConfig(layers=1, width=WIDTH, context=64)), name="policy")
    verify = open_verifier(str(checkpoint), policy, aggregate="mean")
    (verdict,) = ask(verify, THOUGHT)
    assert verdict.score == pytest.approx(sigmoid(1.5))
    assert policy.usage.judged == verdict.cost > 0
    with pytest.raises(ValueError, match="judge is not: give no engine"):
        open_verifier(str(checkpoint), Judge())


def test_names_and_their_arguments(tmp_path: Path) -> None:
    judge = Judge(["No errors. Rating: 10"], belief=lambda text: 0.5)
    (tmp_path / "r.jsonl").write_text('{"criterion": "Is short."}')
    for spec, score in (
        ("generative", 0.5),
        ("chain_of_thought", 0.5),
        ("critic", 1.0),
        (f"rubric:{tmp_path}/r.jsonl", 0.5),
        (f"rubric_implicit:{tmp_path}/r.jsonl", 1.0),
    ):
        options: dict[str, Any] = {"k": 2} if spec == "chain_of_thought" else {"rounds": 0} if spec == "critic" else {}
        (verdict,) = ask(open_verifier(spec, judge, **options), THOUGHT)
        assert (spec, verdict.score, verdict.answer) == (spec, score, "8")
    sure = Step("so", logprobs=(-1.0, -3.0))
    assert ask(open_verifier("confidence"), (sure,))[0].score == pytest.approx(math.exp(-2))
    assert ask(open_verifier("confidence:lowest", window=1), (sure,))[0].score == pytest.approx(math.exp(-3))
    assert ask(open_verifier("generative", judge, answer=lambda text: "x"), THOUGHT)[0].answer == "x"


def test_a_model_is_named_in_the_spec(checkpoint: Path) -> None:
    (verdict,) = ask(open_verifier(f"generative:{checkpoint}"), (Step("7"),))
    assert verdict.score is None  # the question alone is longer than its context of 64
    assert "too long for the judge" in verdict.note


def test_servers() -> None:
    with Server() as server:
        server.answer = lambda payload, number: {
            "score": 0.5,
            "data": [{"score": 0.25, "probs": [0.75], "data": [0.0]}],
        }
        specs = [f"{server.url}/judge", *(f"{name}:{server.url}#rm" for name in ("score", "classify", "pooling"))]
        opened = [open_verifier(spec, api_key="k") for spec in specs]
        assert [ask(verify, THOUGHT)[0].score for verify in opened] == [0.5, 0.25, 0.75, 0.5]
        assert [path for path, _, _ in server.asked] == ["/judge", "/score", "/classify", "/pooling"]
        assert {headers["Authorization"] for _, _, headers in server.asked} == {"Bearer k"}


def test_a_model_behind_a_server_is_asked_and_its_connections_closed(caplog: pytest.LogCaptureFixture) -> None:
    with Server() as server:
        server.answer = lambda payload, number: chat("Yes.")
        verify = open_verifier(f"generative:{server.url}#qwen", api_key="k", read="words")
        assert ask(verify, THOUGHT)[0].score == 1.0
        assert server.asked[0][2]["Authorization"] == "Bearer k"
    del verify
    gc.collect()
    assert "Unclosed" not in caplog.text


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("generativ:tiny", "did you mean 'generative'"),
        ("nowhere", "'nowhere' is no verifier: It is a folder with a head.json, or confidence, generative"),
        ("generative", "generative asks a language model, and there is none: give an engine, or name one"),
        ("critic", "critic asks a language model"),
        ("rubric:none.jsonl", "none.jsonl cannot be read"),
        ("confidence:median", "measure is 'median'"),
        ("score:http://host:1", "names no model; write it as score:http://host:port#model-name"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(spec: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        open_verifier(spec)


def test_folders_without_a_head_and_heads_without_steps_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no trained verifier: it has no head\.json"):
        open_verifier(str(tmp_path))
    save(checkpoint, Head("outcome", (0.0,) * WIDTH))
    with pytest.raises(ValueError, match=r"aggregate is 'min', and .* \(outcome\) has one score"):
        open_verifier(str(checkpoint), aggregate="min")
