"""The page of one search tree: what stands on it, that model text is inert, and what it does in a browser."""

from __future__ import annotations

import base64
import json
import math
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from command_line import Cli, command_line

from forethought.rollout import traces_of
from forethought.scaling.tree_page import tree_of, write_tree
from forethought.store import open_store
from forethought.types import Budget, Message, Node, Step, Trace, Tree, Verdict, user

HOSTILE = (
    "</script><script>document.title='owned'</script>"
    "<img src=https://evil.example/x onerror=\"document.title='owned'\">"
    "<!-- <script> ]]> {{ 7*7 }} ${7*7} &lt;b&gt; \u2028 \u202etxet denrut\u202c \x00\x1b[2J\x9b \ud800 \U000e0041"
)
ASSETS = Path(__file__).parent.parent / "forethought" / "scaling"


def small() -> Tree:
    """Two moves below the root, the first of them gone on with twice; the best thought is node 4."""
    return Tree(
        messages=user("3 + 4?"),
        policy="tiny@3",
        budget=Budget(tokens=100, used=42, calls=5),
        nodes=(
            Node(-1, None, None, 3, 1.5, (1, 2)),
            Node(0, Step("add them\n", (1, 2, 3), stop="stop", action="plan"), 0.5, 2, 1.25, (3, 4)),
            Node(0, Step("guess", (1, 2), stop="length"), None, 1, 0.25),
            Node(1, Step("Wait", stop="budget", sampled=False), 0.125, 1, 0.125),
            Node(1, Step("\\boxed{7}", logprobs=(-0.1, -0.2)), 1.0, 1, 1.0),
        ),
        best=4,
        note="one judge was late",
    )


def chains(count: int, value: Callable[[int], float] = float) -> Tree:
    nodes = [Node(0, Step(f"guess {i}", (1,)), value(i)) for i in range(1, count + 1)]
    return Tree(user("?"), "m", Budget(), (Node(-1, None, children=tuple(range(1, count + 1))), *nodes))


def data_of(path: Path) -> dict[str, Any]:
    """What the page draws, as a browser would read it."""
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.S)
    assert block.isascii()
    return dict(json.loads(block))


def test_the_page_holds_each_node_as_the_search_left_it(tmp_path: Path) -> None:
    data = data_of(write_tree(tmp_path / "tree.html", small(), title="A sum"))
    assert data["parent"] == [-1, 0, 0, 1, 1]
    assert data["text"] == ["", "add them\n", "guess", "Wait", "\\boxed{7}"]
    assert data["tokens"] == [None, 3, 2, None, 2]  # written text was not drawn; log-probabilities tell as well as ids
    assert data["visits"] == [3, 2, 1, 1, 1]
    assert data["mean"] == [0.5, 0.625, 0.25, 0.125, 1]
    assert data["stop"][1:] == ["stop", "length", "budget", "end"]
    assert data["sampled"][1:] == [1, 1, 0, 1]
    assert data["scores"] == {"value": [None, 0.5, None, 0.125, 1]}
    assert (data["best"], data["mark"]) == (4, "the search’s answer")
    assert (data["title"], data["note"], data["messages"]) == ("A sum", "one judge was late", [["user", "3 + 4?"]])
    assert dict(data["facts"]) == {
        "policy": "tiny@3",
        "tree": "4 steps below the root, 2 deep",
        "thoughts": "3, length 1, budget 1, end 1",
        "drawn": "7 tokens",
        "bill": "42 tokens of at most 100 tokens, 5 calls",
    }


def test_no_verdict_is_a_zero_and_no_number_breaks_the_page(tmp_path: Path) -> None:
    odd = chains(4, lambda i: (math.nan, math.inf, -math.inf, 1 / 3)[i - 1])
    data = data_of(write_tree(tmp_path / "tree.html", odd))
    assert data["scores"]["value"] == [None, "NaN", "Infinity", "-Infinity", 0.333333]
    untold = replace(odd, nodes=(odd.nodes[0], *(Node(0, Step("so")) for _ in range(4))))
    data = data_of(write_tree(tmp_path / "tree.html", untold))
    assert data["scores"] == {}
    assert data["mean"] == [None] * 5
    assert dict(data["facts"])["drawn"] == "0 tokens; 4 steps untold"
    assert dict(data["facts"])["bill"] == "not kept"
    assert data["best"] is None


def test_judges_stand_at_the_leaf_and_along_its_path(tmp_path: Path) -> None:
    said = {
        4: {"grade": Verdict(1.0, answer="7", note="equal"), "prm": Verdict(0.5, steps=(0.75, 0.25), cost=9)},
        3: {"prm": Verdict(0.125, steps=(None, 0.5)), "other": Verdict(None, steps=(0.5, 0.5, 0.5))},
        2: {"grade": Verdict(None, note="no answer"), "value": Verdict(0.5)},
    }
    data = data_of(write_tree(tmp_path / "tree.html", small(), verdicts=said))
    assert data["scores"] == {
        "value": [None, 0.5, None, 0.125, 1],
        "grade": [None, None, None, None, 1],
        "prm": [None, 0.75, None, 0.125, 0.5],
        "value (a judge's)": [None, None, 0.5, None, None],
    }
    assert data["said"]["4"] == ["grade: 1, answer 7 (equal)", "prm: 0.5, 9 tokens spent"]
    assert data["said"]["2"][0] == "grade: could not judge (no answer)"


class Tags(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def hostile() -> tuple[Tree, dict[int, dict[str, Verdict]]]:
    step = Step(HOSTILE, (1,))
    messages = (Message(role=HOSTILE, content=HOSTILE),)
    tree = Tree(messages, HOSTILE, Budget(), (Node(-1, None, children=(1,)), Node(0, step, 1.0)), 1, HOSTILE)
    return tree, {1: {HOSTILE: Verdict(1.0, answer=HOSTILE, note=HOSTILE), "__proto__": Verdict(0.0)}}


def test_hostile_text_stands_in_the_data_and_nowhere_else(tmp_path: Path) -> None:
    tree, verdicts = hostile()
    bad = write_tree(tmp_path / "bad.html", tree, title=HOSTILE, verdicts=verdicts)
    assert data_of(bad)["text"] == ["", HOSTILE]
    assert set(data_of(bad)["scores"]) == {"value", HOSTILE, "__proto__"}
    pages = [path.read_text("utf-8") for path in (bad, write_tree(tmp_path / "good.html", small()))]
    outside = [re.sub(r'(id="data">).*?(</script>)', r"\1\2", page, flags=re.S) for page in pages]
    assert outside[0] == outside[1]
    assert "evil" not in outside[0]
    assert Tags(pages[0]).tags == Tags(outside[0]).tags


def test_only_the_page_s_own_script_and_style_may_run(tmp_path: Path) -> None:
    text = write_tree(tmp_path / "tree.html", small()).read_text()
    tags = Tags(text).tags
    (policy,) = [attrs["content"] for _, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for name, kind in (("script", "script-src"), ("style", "style-src")):
        (body,) = re.findall(rf"<{name}>(.*?)</{name}>", text, re.S)
        assert rules[kind] == f"'sha256-{base64.b64encode(sha256(body.encode()).digest()).decode()}'"
    assert not [attrs for _, attrs in tags if {"src", "href", "style"} & attrs.keys()]
    assert not [name for _, attrs in tags for name in attrs if name.startswith("on")]


def test_the_script_neither_reaches_out_nor_makes_markup_of_text() -> None:
    script = (ASSETS / "tree_view.js").read_text() + (ASSETS / "tree_page.js").read_text()
    forbidden = r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|fetch|XMLHttp|import|</script|<!--"
    assert re.findall(forbidden, script) == []


def test_a_tree_that_is_none_is_refused(tmp_path: Path) -> None:
    tree, page = small(), tmp_path / "tree.html"
    broken = [
        (replace(tree, nodes=()), "0 nodes has no root"),
        (replace(tree, nodes=(tree.nodes[0], replace(tree.nodes[1], parent=1)), best=None), "node 1 has the parent 1"),
        (replace(tree, nodes=(tree.nodes[0], Node(0, None)), best=None), "node 1 .* hold a step"),
        (replace(tree, best=5), "best is node 5; the tree has 5 nodes"),
    ]
    for each, said in broken:
        with pytest.raises(ValueError, match=said):
            write_tree(page, each)
    with pytest.raises(ValueError, match="a verdict is of node 9"):
        write_tree(page, tree, verdicts={9: {}})
    assert not page.exists()


def test_a_tree_comes_back_from_its_traces(tmp_path: Path) -> None:
    tree = small()
    traces = traces_of(tree, "sum/1", "tiny@3/sum/1/7")
    verdict = Verdict(1.0, answer="7")
    judged = [replace(traces[-1], verdicts={"grade": verdict})]
    again, verdicts = tree_of([*reversed(traces), *judged])
    bare = tuple(replace(node, visits=0, total=0.0) for node in tree.nodes)
    assert again == replace(tree, nodes=replace_root(bare), budget=Budget(), best=None, note="")
    assert verdicts == {2: {}, 3: {}, 4: {"grade": verdict}}
    data = data_of(write_tree(tmp_path / "tree.html", again, verdicts=verdicts))
    assert (data["best"], data["mark"]) == (4, "highest value of a finished thought")


def replace_root(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    return (replace(nodes[0], value=None), *nodes[1:])


def test_a_tree_of_which_paths_are_missing_says_so() -> None:
    traces = traces_of(small(), "sum/1", "t")
    some, verdicts = tree_of(traces[2:])
    assert [node.step and node.step.text for node in some.nodes] == [None, "add them\n", "\\boxed{7}"]
    assert [node.parent for node in some.nodes] == [-1, 0, 1]
    assert some.note.startswith("2 nodes of this tree not here")
    assert set(verdicts) == {2}
    nothing, _ = tree_of([Trace("p", user("?"), (), "m", "t")])
    assert len(nothing.nodes) == 1


def test_traces_that_are_no_tree_are_refused() -> None:
    one, two, three = traces_of(small(), "sum/1", "t")
    for wrong, said in [
        ([], "0 traces name nothing"),
        ([one, replace(two, tree="u")], "2 traces name 't', 'u'"),
        ([replace(one, tree=None)], "1 trace name None"),
        ([replace(two, nodes=(1,))], "was changed after its search"),
        ([replace(two, nodes=(3, 1))], "was changed after its search"),
        ([two, replace(three, steps=(Step("other"), three.steps[1]))], "differ about node 1"),
    ]:
        with pytest.raises(ValueError, match=said):
            tree_of(wrong)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    return command_line(capsys, monkeypatch, tmp_path)


def test_a_tree_is_drawn_from_a_store_by_name_or_by_one_of_its_traces(cli: Cli, tmp_path: Path) -> None:
    name = "tiny@3/sum/1/7"
    other = traces_of(chains(2), "sum/1", "tiny@3/sum/1/8")
    with open_store("run/store").writer("r") as writer:
        writer.extend(traces_of(small(), "sum/1", name))
        writer.extend(replace(trace, policy="tiny@3") for trace in other)
        # A problem whose name goes on where this one's ends must not be taken for it.
        writer.append(Trace("sum", user("?"), (Step("so"),), "tiny@3", "tiny@3/sum/2", (1,)))
        writer.append(Trace("sum/9", user("?"), (Step("so"),), "tiny@3"))
    said = cli("store", "tree", "run", name, "--out", "pages/tree.html")
    assert (said.status, said.out) == (0, "pages/tree.html\n")
    data = data_of(tmp_path / "pages" / "tree.html")
    assert data["title"] == "Search of sum/1"
    assert sorted(data["text"]) == sorted(["", "add them\n", "guess", "Wait", "\\boxed{7}"])
    entries = {entry.problem_id: entry.id for entry in open_store("run/store").entries()}
    first = next(open_store("run/store").entries()).id
    assert cli("store", "tree", "run", first[:10], "--run", "r").out == "tree.html\n"
    assert data_of(tmp_path / "tree.html") == data
    assert "belongs to no tree" in cli("store", "tree", "run", entries["sum/9"]).error
    assert "belongs to the tree 'tiny@3/sum/1/9'" in cli("store", "tree", "run", "tiny@3/sum/1/9").error
    assert "of run 'other'" in cli("store", "tree", "run", first, "--run", "other").error
    assert "no trace" in cli("store", "tree", "run", "zzz").error


def test_the_page_s_files_are_packaged() -> None:
    project = tomllib.loads((ASSETS.parent.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["forethought"]
    assert {f"**/*{path.suffix}" for path in ASSETS.glob("tree_*") if path.suffix != ".py"} <= set(patterns)


CHOSEN = "document.querySelector('.row.chosen .what').textContent"
PANEL = "document.querySelector('aside').textContent"


def test_in_a_browser_keys_walk_the_tree(browser: Browser, tmp_path: Path) -> None:
    browser.open(write_tree(tmp_path / "tree.html", small(), title="A sum"))
    assert browser.rows() == ["the question", "add them ↵", "✎ Wait", "\\boxed{7}", "guess"]
    assert browser.ask("document.title") == "A sum"
    assert browser.ask(CHOSEN) == "\\boxed{7}"  # the best thought is chosen at first, and its path marked
    assert browser.ask("[...document.querySelectorAll('.row.best')].map(e => e.id).join()") == "node-1,node-4"
    browser.ask("document.getElementById('tree').focus()")
    browser.press("ArrowLeft", "ArrowLeft")  # to its parent, which closes
    assert browser.ask(CHOSEN) == "add them ↵"
    assert browser.rows() == ["the question", "add them ↵", "guess"]
    browser.press("ArrowDown")
    assert browser.ask(CHOSEN) == "guess"
    assert browser.ask("document.getElementById('tree').getAttribute('aria-activedescendant')") == "node-2"
    browser.press("ArrowUp", "ArrowRight", "ArrowRight")
    assert browser.ask(CHOSEN) == "✎ Wait"
    assert "no, written" in browser.ask(PANEL)
    browser.press("Home", "Enter")
    assert browser.rows() == ["the question"]
    browser.ask("document.getElementById('mark').click()")
    assert browser.ask(CHOSEN) == "\\boxed{7}"
    browser.ask("document.getElementById('upto').open = true")
    assert browser.ask("new Promise(f => setTimeout(() => f(document.getElementById('thought').textContent), 50))") == (
        "add them\n\\boxed{7}"
    )
    assert browser.complaints() == []


def test_in_a_browser_steps_are_found_by_text_and_by_score(browser: Browser, tmp_path: Path) -> None:
    grades = {4: {"grade": Verdict(1.0)}, 2: {"grade": Verdict(0.0)}, 3: {"grade": Verdict(None)}}
    browser.open(write_tree(tmp_path / "tree.html", small(), verdicts=grades))
    needle, least, score = (f"document.getElementById('{name}')" for name in ("needle", "least", "score"))
    browser.type(needle, "WAIT")
    assert browser.rows() == ["the question", "add them ↵", "✎ Wait"]  # with the way there
    assert browser.ask("document.getElementById('count').textContent") == "1 of 4 steps"
    browser.type(needle, "")
    browser.type(least, "0.5")
    assert browser.rows() == ["the question", "add them ↵", "\\boxed{7}"]
    browser.ask(f"{score}.value = 'grade'; {score}.dispatchEvent(new Event('change'))")
    browser.type(least, "0")  # a judge that could not tell did not say 0
    assert browser.rows() == ["the question", "add them ↵", "\\boxed{7}", "guess"]
    assert browser.ask("document.getElementById('count').textContent") == "2 of 4 steps"


def test_in_a_browser_siblings_are_ranked(browser: Browser, tmp_path: Path) -> None:
    browser.open(write_tree(tmp_path / "tree.html", chains(300, lambda i: (7 * i) % 300)))
    assert browser.ask(CHOSEN) == "guess 257"  # 7 * 257 = 1799, one below the next multiple of 300
    listed = "[...document.querySelectorAll('#siblings button span:first-child')].map(e => e.textContent)"
    values = browser.ask(listed)
    assert values == [str(value) for value in range(299, 199, -1)]
    assert "and 200 more" in browser.ask(PANEL)
    browser.ask("document.querySelectorAll('#siblings button')[1].click()")
    assert browser.ask(CHOSEN) == "guess 214"  # 7 * 214 = 1498


def test_in_a_browser_a_tree_may_be_bare(browser: Browser, tmp_path: Path) -> None:
    unscored = Tree(user("?"), "m", Budget(), (Node(-1, None, children=(1,)), Node(0, Step(""))))
    for tree, rows in (
        (unscored, ["the question", "(nothing)"]),
        (Tree((), "", Budget(), (Node(-1, None),)), ["the question"]),
    ):
        browser.open(write_tree(tmp_path / "tree.html", tree))
        assert browser.rows() == rows
        assert not browser.ask("document.getElementById('score').checkVisibility()")
        assert browser.ask("getComputedStyle(document.querySelector('.row .visits')).display") == "none"
        browser.ask("document.getElementById('tree').focus()")
        browser.press("ArrowDown", "ArrowRight", "ArrowLeft", "End", "PageUp", "Enter", "x")
        assert browser.complaints() == []


def test_in_a_browser_hostile_text_is_shown_and_does_nothing(browser: Browser, tmp_path: Path) -> None:
    tree, verdicts = hostile()
    browser.open(write_tree(tmp_path / "tree.html", tree, title="Mine", verdicts=verdicts))
    assert browser.ask("document.title") == "Mine"
    assert browser.ask("document.querySelectorAll('img, script, iframe').length") == 2  # the data and the script
    body = browser.ask("document.body.innerText")
    assert "</script><script>document.title='owned'</script><img" in body
    assert "⟨U+202E⟩txet denrut⟨U+202C⟩ ␀␛[2J⟨U+009B⟩" in body
    assert not re.search("[\u202e\u202c\x00\x1b\x9b\u2028\U000e0041]", body)
    assert browser.complaints() == []
    # Even what got into the page could neither run nor be made markup.
    assert (
        browser.ask("(() => { try { document.body.innerHTML = '<b>x</b>' } catch { return 'refused' } })()")
        == "refused"
    )


def test_in_a_browser_twenty_thousand_steps_stay_smooth(browser: Browser, tmp_path: Path) -> None:
    nodes = [Node(-1, None)]
    nodes += [Node((i - 1) // 3, Step(f"step {i}", (1, 2), stop="stop"), (i % 97) / 97) for i in range(1, 20_001)]
    tree = Tree(user("?"), "m", Budget(), tuple(nodes))
    browser.open(write_tree(tmp_path / "tree.html", tree))
    browser.ask("document.getElementById('all').click()")
    assert browser.ask("document.getElementById('rows').style.height") == f"{20_001 * 30}px"
    assert browser.ask("document.querySelectorAll('.row').length") < 100
    browser.ask("document.getElementById('tree').focus()")
    browser.press("End", "ArrowUp", "ArrowDown")
    last = 0
    while 3 * last + 3 <= 20_000:  # the last child of the last child
        last = 3 * last + 3
    assert browser.ask(CHOSEN) == f"step {last}"
    browser.type("document.getElementById('needle')", "step 19999")
    assert browser.rows()[-1] == "step 19999"
    assert browser.ask("document.getElementById('count').textContent") == "1 of 20,000 steps"
