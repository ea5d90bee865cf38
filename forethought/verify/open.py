"""From a `--verify` string to the verifier that it names."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from forethought.engines.http import HttpEngine
from forethought.engines.open import find, needing_weights, open_engine
from forethought.types import Engine
from forethought.verify import critic, generative, remote, rubric
from forethought.verify.confidence import confidence
from forethought.verify.heads import DESCRIPTION, Aggregate, load
from forethought.verify.verdict import Opened, Verify

ASKED: dict[str, Callable[..., Verify]] = {
    "generative": generative.direct,
    "chain_of_thought": generative.chain_of_thought,
    "critic": critic.critic,
}
"""NAME or NAME:MODEL."""
RUBRICS: dict[str, Callable[..., Verify]] = {"rubric": rubric.explicit, "rubric_implicit": rubric.implicit}
"""NAME:FILE."""
SERVED: dict[str, Callable[..., Opened]] = {
    "classify": remote.classify,
    "score": remote.score,
    "pooling": remote.pooling,
}
"""NAME:URL#model."""
NAMES = ("confidence", *ASKED, *RUBRICS, *SERVED)


def open_verifier(
    spec: str, engine: Engine | None = None, *, dtype: str = "auto", api_key: str | None = None, **options: Any
) -> Opened:
    """The verifier that `spec` names:

    | spec | |
    |---|---|
    | a folder with a `head.json`, or a run whose newest checkpoint has one | outcome, process, bradley_terry or value |
    | `confidence`, `confidence:lowest` | the policy's own log-probabilities |
    | `generative`, `chain_of_thought`, `critic`, each bare or with `:MODEL` | a language model is asked |
    | `rubric:FILE`, `rubric_implicit:FILE` | a language model is asked |
    | `http://host/path` | a judge endpoint |
    | `classify:URL#model`, `score:URL#model`, `pooling:URL#model` | vLLM |

    `engine` is the judge where `spec` names no model of its own. A folder's own weights are opened unless an engine
    over them is given; for a value head that is the policy's, so that judging costs next to nothing. `dtype` is for
    weights that are opened here, `api_key` for a server that is named here, `options` are the constructor's (`k`,
    `aggregate`, `answer`, …). Close it at the end, or use it as `async with`: it may hold connections.

    Raises:
        ValueError: an unknown name, a folder without a head, no model to ask, or a broken file of criteria.
    """
    if spec.startswith(("http://", "https://")):
        return remote.endpoint(spec, api_key=api_key, **options)
    name, _, rest = spec.partition(":")
    if name == "confidence":
        measure: Any = rest or "mean"
        return Opened(confidence(measure, engine=engine, **options))
    if name in ASKED:
        if not rest:
            return Opened(ASKED[name](_given(name, engine), **options))
        judge = open_engine(rest, dtype=dtype, api_key=api_key)
        return Opened(ASKED[name](judge, **options), (judge.close,) if isinstance(judge, HttpEngine) else ())
    if name in RUBRICS:
        criteria = rubric.load(rest)
        return Opened(RUBRICS[name](_given(name, engine), criteria, **options))
    if name in SERVED:
        url, _, model = rest.partition("#")
        if not model:
            raise ValueError(f"{spec!r} names no model; write it as {name}:http://host:port#model-name")
        return SERVED[name](url, model, api_key=api_key, **options)
    return Opened(_trained(spec, engine, dtype, **options))


def _given(name: str, engine: Engine | None) -> Engine:
    if engine is None:
        raise ValueError(
            f"{name} asks a language model, and there is none: give an engine, or name one (generative:MODEL)"
        )
    return engine


def _trained(
    spec: str, engine: Engine | None, dtype: str, *, aggregate: Aggregate | None = None, **options: Any
) -> Verify:
    """The verifier of a folder with a trained head."""
    path = Path(spec).expanduser()
    if not path.is_dir():
        near = difflib.get_close_matches(spec.partition(":")[0], NAMES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"{spec!r} is no verifier: {hint}It is a folder with a {DESCRIPTION}, or {', '.join(NAMES)}")
    if not (path / DESCRIPTION).is_file() and (path / "checkpoints").is_dir():
        path = Path(find(str(path)).value)
    head = load(path)
    with needing_weights(spec):
        from forethought.engines.local import LocalEngine
        from forethought.verify import scalar
    judge = engine or open_engine(str(path), dtype=dtype)
    if not isinstance(judge, LocalEngine):
        raise ValueError(f"{spec} is a head on weights in this process, and {judge.name} is not: give no engine")
    if aggregate is not None:
        if head.kind not in ("process", "value"):
            raise ValueError(f"aggregate is {aggregate!r}, and {spec} ({head.kind}) has one score; leave it out")
        head = replace(head, aggregate=aggregate)
    makers: dict[str, Callable[..., Verify]] = {
        "outcome": scalar.outcome,
        "process": scalar.process,
        "bradley_terry": scalar.bradley_terry,
        "value": scalar.value,
    }
    return makers[head.kind](judge, head, **options)
