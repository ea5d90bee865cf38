"""*Traces*: stores by the page, one trace, two of them, a search's tree; the operator's alone, bad words harmless."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import Browser
from serving import Running, Talking, served, server, thinker
from store_traces import BARE, FULL, fill, traces

from forethought.store import open_store
from forethought.types import Step, Trace, Verdict, user

OWNER, OTHER = "sk-owner-0123456789", "sk-other-0123456789"
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"


def searched() -> list[Trace]:
    """One search of three thoughts, two of which begin alike."""
    first, right, wrong = (
        Step("add them\n", (1, 2)),
        Step("so\n\\boxed{7}", (3,), stop="stop"),
        Step(f"so\n{HOSTILE}", (4,)),
    )
    paths = [((1, 2), (first, right), 1.0), ((1, 3), (first, wrong), 0.0), ((4,), (Step("guess", (5,)),), 0.0)]
    return [
        Trace(
            "sum/7", user("3 + 4 = ?"), steps, "tiny@3", "tiny@3/sum/7/0", nodes, (0.5,) * len(nodes),
            {"grade": Verdict(reward, note=HOSTILE), "prm": Verdict(reward, steps=(0.25,) * len(steps))},
        )
        for nodes, steps, reward in paths
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    fill(open_store(root / "one" / "store"), traces(130))
    endless = replace(
        FULL, problem_id="sum/3", values=(float("nan"), float("inf"), None), verdicts={"grade": Verdict(float("inf"))}
    )
    fill(open_store(root / "lab" / "two" / "store"), [FULL, BARE, endless, *searched()])
    (root / "elsewhere").mkdir()
    return root


@pytest.fixture(scope="module")
def running(runs: Path) -> Iterator[Running]:
    with server(served(Talking(thinker())), runs=str(runs)) as there:
        yield there


def get(running: Running, path: str, **asked: Any) -> Any:
    reply = httpx.get(f"{running.url}/pages/{path}", params=asked)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_every_store_below_the_folder_is_listed(running: Running) -> None:
    assert sorted(get(running, "stores")["stores"]) == ["lab/two", "one"]
    assert [(run["name"], run["traces"]) for run in get(running, "store", store="one")["runs"]] == [("r", 130)]


@pytest.mark.parametrize("inside", ["one", "one/store"])
def test_a_run_or_a_store_may_be_the_folder(runs: Path, inside: str) -> None:
    with server(served(Talking(thinker())), runs=str(runs / inside)) as there:
        (name,) = get(there, "stores")["stores"]
        assert len(get(there, "traces", store=name)["traces"]) == 50


def test_pages_of_traces_are_bounded_and_make_the_whole(running: Running) -> None:
    found: list[str] = []
    after = None
    while True:
        told = get(running, "traces", store="one", limit=40, **({"after": after} if after else {}))
        assert len(told["traces"]) <= 40
        found += [entry["problem_id"] for entry in told["traces"]]
        if (after := told["after"]) is None:
            break
    assert found == [f"p/{i % 7}" for i in range(130)]
    right = get(running, "traces", store="one", min_reward=1, stop="end", limit=200)["traces"]
    assert [entry["problem_id"] for entry in right] == [f"p/{i % 7}" for i in range(2, 130, 4)]
    assert get(running, "traces", store="one", stop="length")["traces"] == []


def test_numbers_that_json_has_not_are_told(running: Running) -> None:
    told = get(running, "traces", store="lab/two")["traces"]
    assert told[2]["reward"] == "Infinity"
    trace = get(running, "trace", store="lab/two", id=told[2]["id"])
    assert [step["value"] for step in trace["steps"]] == ["NaN", "Infinity", None]


def test_a_tree_is_told_by_any_of_its_traces(running: Running) -> None:
    last = get(running, "traces", store="lab/two")["traces"][-1]["id"]
    tree = get(running, "tree", store="lab/two", id=last[:12])
    assert tree["parent"] == [-1, 0, 1, 1, 0]
    assert tree["text"][1:3] == ["add them\n", "so\n\\boxed{7}"]
    assert get(running, "tree", store="lab/two", id="tiny@3/sum/7/0") == tree


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("traces", {}),
        ("traces", {"store": "elsewhere"}),
        ("traces", {"store": "../one"}),
        ("traces", {"store": "/"}),
        ("traces", {"store": "one", "limit": 0}),
        ("traces", {"store": "one", "limit": 10**6}),
        ("traces", {"store": "one", "limit": "many"}),
        ("traces", {"store": "one", "stop": "never"}),
        ("traces", {"store": "one", "min_reward": "x"}),
        ("traces", {"store": "one", "after": "x-1"}),
        ("traces", {"store": "one", "after": f"{10**30}-0"}),
        ("traces", {"store": "one", "run": "x" * 2000}),
        ("trace", {"store": "one"}),
        ("trace", {"store": "one", "id": ""}),
        ("trace", {"store": "one", "id": "%"}),
        ("trace", {"store": "one", "id": "zz\x00"}),
        ("tree", {"store": "one", "id": "a/b"}),
        ("tree", {"store": "lab/two", "id": "m/sum/2/1"}),
        ("store", {"store": "\ud7ff" * 2000}),
    ],
)
def test_bad_words_are_refused_and_are_no_fault(running: Running, path: str, asked: dict[str, Any]) -> None:
    reply = httpx.get(f"{running.url}/pages/{path}", params=asked)
    assert 400 <= reply.status_code < 500, (asked, reply.text)
    assert reply.json()["error"]["message"]


@pytest.mark.parametrize("asked", [{"after": "999-0"}, {"min_reward": "nan"}, {"problem": "' OR 1 --"}])
def test_words_that_choose_nothing_get_nothing(running: Running, asked: dict[str, str]) -> None:
    assert get(running, "traces", store="one", **asked)["traces"] == []


def test_hidden_thoughts_are_the_operators(runs: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"owner {OWNER} operator\nother {OTHER} 60\n")
    paths = ["stores", "store?store=one", "traces?store=one", "trace?store=one&id=0", "tree?store=one&id=0"]
    with server(served(Talking(thinker())), runs=str(runs), keys=str(keys)) as there:

        def status(path: str, key: str) -> int:
            return httpx.get(f"{there.url}/pages/{path}", headers={"authorization": f"Bearer {key}"}).status_code

        assert [status(path, OTHER) for path in paths] == [403] * 5
        assert [status(path, "sk-nobody-0123456789") for path in paths] == [401] * 5
        assert status("traces?store=one", OWNER) == 200
        crossed = {"authorization": f"Bearer {OWNER}", "sec-fetch-site": "cross-site"}
        assert httpx.get(f"{there.url}/pages/stores", headers=crossed).status_code == 403


def test_without_a_folder_nothing_is_shown(browser: Browser) -> None:
    with server(served(Talking(thinker()))) as there:
        assert httpx.get(f"{there.url}/pages/stores").json()["error"]["code"] == "no_runs"
        browser.open(f"{there.url}/traces")
        browser.until("document.getElementById('wrong').textContent.includes('--runs FOLDER')")


@pytest.mark.filterwarnings("ignore:.*damaged")
def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    fill(store, traces(3))
    next(iter(store.shards())).write_bytes(b"nothing")
    with server(served(Talking(thinker())), runs=str(tmp_path)) as there:
        (name,) = get(there, "stores")["stores"]
        assert "damaged" in get(there, "store", store=name)["damaged"][0]
        (first, *_) = get(there, "traces", store=name)["traces"]
        reply = httpx.get(f"{there.url}/pages/trace", params={"store": name, "id": first["id"]})
        assert 400 <= reply.status_code < 500


ROWS = "[...document.querySelectorAll('#entries tr')]"


def opened(browser: Browser, running: Running, store: str) -> None:
    browser.open("about:blank")  # another address behind the # alone would open nothing
    browser.open(f"{running.url}/traces#store={store}")
    browser.until(f"document.getElementById('store').value === '{store}' && {ROWS}.length")


def test_in_a_browser_traces_are_filtered_and_paged(browser: Browser, running: Running) -> None:
    opened(browser, running, "one")
    assert browser.ask(f"{ROWS}.length") == 50
    browser.ask("document.getElementById('next').click()")
    browser.until("document.getElementById('first').checkVisibility()")
    browser.ask("document.getElementById('next').click()")
    browser.until(f"{ROWS}.length === 30")
    assert not browser.ask("document.getElementById('next').checkVisibility()")
    change = "f.dispatchEvent(new Event('change', { bubbles: true }))"
    browser.ask(f"(f => {{ f.value = 'p/3'; {change} }})(document.getElementById('problem'))")
    browser.until(f"{ROWS}.length === 19")
    assert set(browser.ask(f"{ROWS}.map(row => row.cells[3].textContent)")) == {"p/3"}
    browser.ask(f"(f => {{ f.value = 'nothing'; {change} }})(document.getElementById('problem'))")
    browser.until("document.getElementById('entries').textContent === 'No trace is so.'")
    assert browser.complaints() == []


def test_in_a_browser_two_traces_stand_side_by_side(browser: Browser, running: Running) -> None:
    opened(browser, running, "lab/two")
    browser.ask(f"{ROWS}.slice(3, 5).forEach(row => row.querySelector('input').click())")
    browser.ask("document.getElementById('compare').click()")
    browser.until("document.querySelectorAll('.pair article').length === 2")
    said = browser.ask("document.getElementById('shown').innerText")
    assert "They begin alike, for 1 step and 1 line." in said
    assert HOSTILE in said
    assert "prm 0.25" in said
    same = browser.ask("[...document.querySelectorAll('.steps li.same pre, .steps span.same')].map(e => e.textContent)")
    assert same == ["add them\n", "so\n"] * 2
    assert browser.ask("document.title") == "Traces · forethought"
    browser.ask("history.back()")
    browser.until("!document.querySelector('#shown article')")
    assert browser.hosts() == {running.url.removeprefix("http://")}
    assert browser.complaints() == []


def test_in_a_browser_a_stored_search_is_a_tree(browser: Browser, running: Running) -> None:
    opened(browser, running, "lab/two")
    browser.ask(f"{ROWS}[3].querySelector('button').click()")
    browser.until("document.querySelector('#shown article button')")
    browser.ask("document.querySelector('#shown article button').click()")
    browser.until("document.querySelectorAll('.row').length === 5")
    assert browser.rows() == ["the question", "add them ↵", "so ↵ \\boxed{7}", f"so ↵ {HOSTILE}", "guess"]
    assert "Search of sum/7" in browser.ask("document.getElementById('growth').innerText")
    assert browser.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser_traces_fit_a_phone(browser: Browser, running: Running, dark: bool) -> None:
    browser.screen(360, 740, dark=dark)
    try:
        opened(browser, running, "lab/two")
        browser.ask(f"{ROWS}[3].querySelector('button').click()")
        browser.until("document.querySelector('#shown article')")
        assert browser.ask("document.documentElement.scrollWidth") <= 360
    finally:
        browser.screen()
