"""One search tree as one HTML file: its steps, what they scored, and which path the search answered with.

The page draws itself from one block of JSON in plain ASCII; all that a model, a task or a server wrote stands there and
nowhere else, and the script shows it as text. Its content policy lets this one script and this one style run, by hash.
"""

from __future__ import annotations

import json
import math
import os
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from forethought.scaling.words import counted
from forethought.types import FINISHED, Budget, Node, Step, Trace, Tree, Verdict

VALUE = "value"
"""What the page calls `Node.value`, beside the scores of judges."""

Verdicts = Mapping[int, Mapping[str, Verdict]]
"""Leaf of a tree, judge, verdict."""


def tree_of(traces: Iterable[Trace]) -> tuple[Tree, dict[int, dict[str, Verdict]]]:
    """The tree whose paths these traces are, put together again, and what judges said of its leaves.

    A trace keeps steps and values. Visits, the bill and the leaf that the search answered with stay behind: `visits` is
    0, `budget` is empty and `best` is `None`. Nodes of which no trace is there are left out, and the note says so. A
    trace that comes twice (judged again under another run) adds its verdicts.

    Raises:
        ValueError: no trace, traces of several trees or of none, or traces that differ about a step.
    """
    kept = list(traces)
    names = {trace.tree for trace in kept}
    if len(names) != 1 or None in names:
        shown = ", ".join(sorted(map(repr, names))[:3]) or "nothing"
        raise ValueError(f"these {counted(len(kept), 'trace')} name {shown} as their tree; give those of one tree")
    found: dict[int, Node] = {}
    leaves: dict[int, dict[str, Verdict]] = {}
    for trace in kept:
        values = trace.values or (None,) * len(trace.nodes)
        path = (0, *trace.nodes)
        if not len(trace.nodes) == len(trace.steps) == len(values) or any(a >= b for a, b in pairwise(path)):
            raise ValueError(
                f"a trace of tree {trace.tree!r} has the nodes {trace.nodes}, {len(trace.steps)} steps and "
                f"{len(values)} values; it was changed after its search, so leave its run out"
            )
        for (parent, node), step, value in zip(pairwise(path), trace.steps, values, strict=True):
            same = found.setdefault(node, Node(parent, step, value))
            # Not `==`: a log-probability that is not a number equals nothing, itself included.
            if (same.parent, same.step and same.step.text) != (parent, step.text):
                raise ValueError(f"two traces of tree {trace.tree!r} differ about node {node}; choose one run")
        leaves.setdefault(path[-1], {}).update(trace.verdicts)
    index = {node: new for new, node in enumerate((0, *sorted(found)))}
    children: list[list[int]] = [[] for _ in index]
    for node in sorted(found):
        children[index[found[node].parent]].append(index[node])
    nodes = [Node(-1, None)] + [replace(node, parent=index[node.parent]) for _, node in sorted(found.items())]
    nodes = [replace(node, children=tuple(below)) for node, below in zip(nodes, children, strict=True)]
    missing = max(index) + 1 - len(index)
    note = f"{counted(missing, 'node')} of this tree not here: some of its paths were not kept" if missing else ""
    tree = Tree(kept[0].messages, kept[0].policy, Budget(), tuple(nodes), note=note)
    return tree, {index[leaf]: said for leaf, said in leaves.items()}


def write_tree(path: str | Path, tree: Tree, *, title: str = "A search tree", verdicts: Verdicts | None = None) -> Path:
    """Write the page, all of it in one file, and return where it stands.

    Marked is the path to `tree.best`, or else the one of highest value that finished. Tokens are those drawn at each
    node, where the engine told; a node's mean is `total / visits`. A judge's score of a leaf stands there, its scores
    of steps along the path.

    Raises:
        ValueError: the tree has no root, a parent that does not stand before its child, or no node `best`; or a
            verdict is of a node there is not.
        OSError: the file cannot be written.
    """
    data = json.dumps(tree_data(tree, title, verdicts or {}), separators=(",", ":"), allow_nan=False)
    # No tag can begin, and no comment: within this block a browser looks for nothing else.
    data = data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    here = Path(__file__).parent
    style = (here / "tree_page.css").read_text(encoding="utf-8")
    script = "".join((here / name).read_text(encoding="utf-8") for name in ("tree_view.js", "tree_page.js"))
    page = Environment(loader=PackageLoader("forethought.scaling", ""), autoescape=True, undefined=StrictUndefined)
    text = page.get_template("tree_page.html").render(
        style=Markup(style),
        style_hash=_hash(style),
        script=Markup(script),
        script_hash=_hash(script),
        data=Markup(data),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8", newline="\n")  # the hashes are of these line ends
    os.replace(new, path)
    return path


def _hash(text: str) -> str:
    """What a content policy calls this text, CSP level 2 section 4.2.5."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def tree_data(tree: Tree, title: str, verdicts: Verdicts) -> dict[str, Any]:
    """What `tree_view.js` draws: columns over the N nodes, scores by name, and the facts for the top; JSON values only.

    Raises ValueError as `write_tree` does.
    """
    nodes = tree.nodes
    if not nodes or nodes[0].parent != -1:
        raise ValueError(f"a tree of {counted(len(nodes), 'node')} has no root; node 0 must have the parent -1")
    for index, node in enumerate(nodes[1:], 1):
        if not 0 <= node.parent < index or node.step is None:
            raise ValueError(f"node {index} has the parent {node.parent}; it must be one before it, and hold a step")
    if tree.best is not None and not 0 < tree.best < len(nodes):
        raise ValueError(f"best is node {tree.best}; the tree has {counted(len(nodes), 'node')}")
    if strange := [leaf for leaf in verdicts if not 0 <= leaf < len(nodes)]:
        raise ValueError(f"a verdict is of node {strange[0]}; the tree has {counted(len(nodes), 'node')}")
    steps = [node.step or Step("", sampled=False) for node in nodes]
    tokens = [len(step.tokens) or len(step.logprobs) or None for step in steps]
    drawn = [count if step.sampled else None for count, step in zip(tokens, steps, strict=True)]
    best, mark = _marked(tree)
    return {
        "title": title,
        "facts": _facts(tree, drawn),
        "note": tree.note,
        "messages": [[message["role"], message["content"]] for message in tree.messages],
        "parent": [node.parent for node in nodes],
        "text": [step.text for step in steps],
        "tokens": drawn,
        "visits": [node.visits for node in nodes],
        "mean": [number(node.total / node.visits) if node.visits else None for node in nodes],
        "stop": [step.stop for step in steps],
        "action": [step.action for step in steps],
        "sampled": [int(step.sampled) for step in steps],
        "own": [number(step.value) for step in steps],
        "scores": _scores(tree, verdicts),
        "said": {leaf: [verdict_words(judge, said) for judge, said in by.items()] for leaf, by in verdicts.items()},
        "best": best,
        "mark": mark,
    }


def number(value: float | None) -> float | str | None:
    """Six digits of a number; what JSON cannot say as JavaScript's `Number` reads it."""
    if value is None or math.isfinite(value):
        return None if value is None else float(f"{value:.6g}")
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _scores(tree: Tree, verdicts: Verdicts) -> dict[str, list[float | str | None]]:
    """A column over the N nodes for the search's value and for each judge; those that say nothing are left out."""
    columns = {VALUE: [node.value for node in tree.nodes]}
    for leaf, by in verdicts.items():
        path = tree.path(leaf)
        for judge, said in by.items():
            column = columns.setdefault(judge if judge != VALUE else "value (a judge's)", [None] * len(tree.nodes))
            # A judge that cut the thought into other steps than the search did speaks of no node but the leaf.
            along = said.steps if len(said.steps) == len(path) else ()
            for node, score in (*zip(path, along, strict=False), (leaf, said.score)):
                column[node] = column[node] if score is None else score
    return {
        name: [number(score) for score in column]
        for name, column in columns.items()
        if any(score is not None for score in column)
    }


def verdict_words(judge: str, said: Verdict) -> str:
    """A verdict in one line."""
    score = "could not judge" if said.score is None else f"{said.score:.4g}"
    answer = "" if said.answer is None else f", answer {said.answer}"
    cost = f", {counted(said.cost, 'token')} spent" if said.cost else ""
    return f"{judge}: {score}{answer}{cost}{f' ({said.note})' if said.note else ''}"


def _marked(tree: Tree) -> tuple[int | None, str]:
    """The leaf whose path is marked, and as what."""
    if tree.best is not None:
        return tree.best, "the search’s answer"
    worth = {
        leaf: value
        for leaf in tree.leaves()
        if (value := tree.nodes[leaf].value) is not None
        and (step := tree.nodes[leaf].step) is not None
        and step.stop in FINISHED
    }
    return (max(worth, key=worth.__getitem__), "highest value of a finished thought") if worth else (None, "")


def _facts(tree: Tree, drawn: Sequence[int | None]) -> list[tuple[str, str]]:
    """What stands on top, as (name, words): size, how the thoughts ended, and the bill."""
    leaves = tree.leaves()
    depths = [0]
    for node in tree.nodes[1:]:
        depths.append(depths[node.parent] + 1)
    stops = Counter(step.stop for leaf in leaves if (step := tree.nodes[leaf].step) is not None)
    known = [count for count in drawn if count is not None]
    untold = sum(step is not None and step.sampled for step in (node.step for node in tree.nodes)) - len(known)
    bill, limits = tree.budget, []
    if bill.tokens is not None:
        limits.append(f"of at most {counted(bill.tokens, 'token')}")
    if bill.seconds is not None:
        limits.append(f"in at most {bill.seconds:g} s")
    spent = f"{counted(bill.used, 'token')} {' '.join(limits)}".rstrip() + f", {counted(bill.calls, 'call')}"
    return [
        ("policy", tree.policy),
        ("tree", f"{counted(len(tree.nodes) - 1, 'step')} below the root, {max(depths):,} deep"),
        ("thoughts", ", ".join([f"{len(leaves):,}", *(f"{stop} {count:,}" for stop, count in stops.most_common())])),
        ("drawn", counted(sum(known), "token") + (f"; {counted(untold, 'step')} untold" if untold else "")),
        ("bill", spent if bill.calls or bill.used else "not kept"),
    ]
