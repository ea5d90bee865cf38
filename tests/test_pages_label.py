"""The page Label: what is kept of what a person says, and a person at the keyboard."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import Browser
from labelling import CONTINUED, HOSTILE, LINES, RUN, ends, going_on, thought
from serving import Talking, served, server

from forethought.pages.edit import CORRECTED, EDITED
from forethought.store import Store, open_store
from forethought.store.labels import Labels, thought_key
from forethought.store.schema import to_row
from forethought.types import Messages, Sampling, Step


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = open_store(tmp_path / "runs" / "grpo-1" / "store")
    with opened.writer(RUN) as writer:
        writer.extend(thought(number) for number in range(3))
    return opened


@pytest.fixture
def engine() -> Talking:
    return Talking(going_on)


@pytest.fixture
def url(store: Store, engine: Talking) -> Iterator[str]:
    with server(served(engine), runs=str(store.path.parent.parent)) as there:
        yield there.url


def ask(url: str, path: str, **params: Any) -> Any:
    reply = httpx.get(f"{url}/pages/label{path}", params={"store": "grpo-1", **params})
    assert reply.status_code == 200, reply.text
    return reply.json()


def tell(url: str, path: str, status: int = 200, **body: Any) -> Any:
    reply = httpx.post(f"{url}/pages/label/{path}", json={"store": "grpo-1", "labeller": "alice", **body})
    assert reply.status_code == status, reply.text
    return reply.json()


def test_labels_are_kept_with_who_and_when_and_taken_back(url: str, store: Store) -> None:
    before = time.time()
    (first, *_) = ask(url, "/queue", run=RUN, labeller="alice")["thoughts"]
    told = ask(url, "/thought", id=first["id"], labeller="alice")
    assert [move["text"] for move in told["moves"] if move["asked"]] == [
        *(f"{line}\n" for line in LINES),
        "\\boxed{74}",
    ]
    places = [move["end"] for move in told["moves"] if move["asked"]]
    said = [tell(url, "label", id=first["id"], place=place, label=1) for place in places]
    assert [one["done"] for one in said] == [False] * 4 + [True]
    assert all(before <= one["time"] <= time.time() for one in said)
    trace = store.show(first["id"])
    assert trace.verdicts["person:alice"].score == 1.0
    assert trace.verdicts["person:alice"].note.startswith("alice, ")
    assert tell(url, "undo") == {"id": first["id"], "place": places[-1]}
    assert "person:alice" not in store.show(first["id"]).verdicts
    assert tell(url, "undo", labeller="bob") == {"id": None, "place": None}


def test_nobody_is_led_by_what_others_said(url: str, store: Store) -> None:
    trace = next(store.traces())
    id_ = to_row(trace).id
    store.labels.put(trace, "bob", ends(trace)[0], -1)
    told = ask(url, "/thought", id=id_, labeller="alice")
    assert (told["others"], told["scores"]) == ({}, {})
    tell(url, "label", id=id_, place=ends(trace)[0], label=-1)
    told = ask(url, "/thought", id=id_, labeller="alice")
    assert told["others"] == {"bob": {str(ends(trace)[0]): -1}}


def test_an_edited_step_is_gone_on_with_and_kept_with_its_parent(url: str, store: Store, engine: Talking) -> None:
    trace = next(store.traces())
    id_ = to_row(trace).id
    places = ends(trace)
    tell(url, "label", id=id_, place=places[0], label=1)
    tell(url, "label", id=id_, place=places[1], label=-1)
    made = tell(url, "go_on", id=id_, place=places[1], text="48 / 2 = 24 in May.", model="small")
    assert (made["parent"], made["run"]) == (id_, CORRECTED)
    (kept,) = store.traces(run=CORRECTED)
    assert to_row(kept).id == made["id"]
    assert kept.text == "<think>\n48 in April.\n48 / 2 = 24 in May.\nSo 72.\n</think>\n\\boxed{72}"
    assert [step.text for step in kept.steps if not step.sampled] == ["48 / 2 = 24 in May.\n"]
    assert all(step.tokens for step in kept.steps if step.sampled)
    assert (kept.problem_id, kept.messages, kept.policy) == (trace.problem_id, trace.messages, engine.name)
    assert kept.verdicts[EDITED].score is None
    assert kept.verdicts[EDITED].note.startswith(f"{id_} corrected by alice at 20")
    assert kept.verdicts[EDITED].note.endswith("move 2")
    ((messages, steps, _),) = engine.asked
    assert messages == trace.messages
    assert "".join(step.text for step in steps) == "<think>\n48 in April.\n48 / 2 = 24 in May.\n"
    (drawn,) = re.findall(
        r'forethought_tokens_total{kind="corrected",model="small"} (.+)', httpx.get(f"{url}/metrics").text
    )
    assert float(drawn) == engine.tokens == len(CONTINUED)
    told = ask(url, "/thought", id=made["id"], labeller="alice")
    assert [(move["text"], move["label"]) for move in told["moves"] if move["asked"]] == [
        ("48 in April.\n", 1),
        ("So 72.\n", None),
        ("\\boxed{72}", None),
    ]
    assert CORRECTED in [run["name"] for one in ask(url, "")["stores"] for run in one["runs"]]


def test_a_model_that_fails_leaves_no_corrected_thought(store: Store) -> None:
    def broken(messages: Messages, steps: Sequence[Step], sampling: Sampling, call: int) -> Exception:
        return OSError("gone")

    with server(served(Talking(broken)), runs=str(store.path.parent)) as there:
        trace = next(store.traces())
        body: dict[str, Any] = {"id": to_row(trace).id, "place": ends(trace)[0], "text": "so", "model": "small"}
        tell(there.url, "go_on", 502, **body)
        changes: list[tuple[int, dict[str, Any]]] = [
            (404, {"model": "other"}),
            (400, {"place": 1}),
            (400, {"text": ""}),
        ]
        for status, change in changes:
            tell(there.url, "go_on", status, **{**body, **change})
    assert [run.name for run in store.summary().runs] == [RUN]


def test_a_conversation_that_fills_the_context_is_not_gone_on_with(store: Store) -> None:
    class Small(Talking):
        context = 100

        class tokenizer:  # noqa: N801  # an engine's attribute
            chat_template = None
            eos_token_id = None
            encode = staticmethod(lambda text, **options: list(map(ord, text)))
            decode = staticmethod(lambda tokens, **options: "".join(map(chr, tokens)))

    trace = next(store.traces())
    body: dict[str, Any] = {"id": to_row(trace).id, "place": ends(trace)[-1], "text": "so", "model": "small"}
    with server(served(Small(going_on)), runs=str(store.path.parent)) as there:
        assert tell(there.url, "go_on", 400, **body)["error"]["code"] == "context_length_exceeded"
    assert [run.name for run in store.summary().runs] == [RUN]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"label": 2}, 400),
        ({"place": 3}, 400),
        ({"labeller": ""}, 400),
        ({"labeller": "a\u202eb"}, 400),
        ({"id": "ffff"}, 400),
        ({"store": "../store"}, 404),
    ],
)
def test_what_is_no_label_is_refused(body: dict[str, Any], status: int, url: str, store: Store) -> None:
    trace = next(store.traces())
    good: dict[str, Any] = {"id": to_row(trace).id, "place": ends(trace)[0], "label": 1}
    told = tell(url, "label", status, **{**good, **body})
    assert told["error"]["message"]
    assert not store.labels.path.exists()
    tell(url, "label", **good)


def test_a_key_has_a_name_that_nobody_can_borrow(store: Store, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("alice sk-alice-0123456789 600 operator\nbob sk-bob-0123456789\n")
    trace = next(store.traces())
    body = {"store": "grpo-1", "labeller": "carol", "id": to_row(trace).id, "place": ends(trace)[0], "label": 1}
    with server(served(Talking(going_on)), runs=str(store.path.parent), keys=str(keys)) as there:
        status = {
            who: httpx.post(
                f"{there.url}/pages/label/label", json=body, headers={"authorization": f"Bearer sk-{who}-0123456789"}
            ).status_code
            for who in ("alice", "bob")
        }
        assert status == {"alice": 200, "bob": 403}
        assert httpx.post(f"{there.url}/pages/label/label", json=body).status_code == 401
    assert list(store.labels.standing()[thought_key(trace.messages, trace.text)]) == ["alice"]


def test_without_a_folder_there_is_nothing_to_label() -> None:
    with server(served(Talking(going_on))) as there:
        assert httpx.get(f"{there.url}/pages/label").json() == {"stores": [], "models": ["small"], "labeller": None}


def labels_of(store: Store, who: str) -> list[int]:
    """What stands, thought by thought in the order of the store, step by step."""
    told = store.labels.standing()
    found = []
    for trace in store.traces():
        own = told.get(thought_key(trace.messages, trace.text), {}).get(who, {})
        found += [own[place].label for place in ends(trace) if place in own]
    return found


def opened(browser: Browser, url: str, name: str) -> None:
    """The page, its labeller named, its first thought there."""
    browser.open(f"{url}/label")
    browser.ask("localStorage.clear()")
    browser.open(f"{url}/label")
    browser.until("document.getElementById('naming').open")
    browser.ask(f"document.getElementById('name').value = '{name}'; document.querySelector('#naming button').click()")
    browser.until("document.querySelectorAll('#moves li').length > 3")


MARKED = "[...document.querySelectorAll('#moves li:not(.context) .label')].map(e => e.textContent).filter(Boolean)"


def test_in_a_browser_ten_steps_are_labelled_with_the_keyboard(browser: Browser, url: str, store: Store) -> None:
    browser.screen()
    opened(browser, url, "alice")
    before = time.time()
    assert browser.ask("document.querySelectorAll('#moves li:not(.context)').length") == 5
    assert HOSTILE in browser.ask("document.getElementById('moves').textContent")
    browser.press("1", "2", "1", "1", "2")
    browser.until(f"{MARKED}.length === 5 && !document.querySelector('.saving')")
    assert browser.ask(MARKED) == ["right", "neutral", "right", "right", "neutral"]
    title = browser.ask("document.getElementById('title').textContent")
    browser.press("Enter")
    browser.until(f"document.getElementById('title').textContent !== '{title}'")
    browser.press("1", "1", "1", "1", "3")
    browser.until(f"{MARKED}.length === 5 && !document.querySelector('.saving')")
    assert labels_of(store, "alice") == [1, 0, 1, 1, 0, 1, 1, 1, 1, -1]
    when = [one.time for by in store.labels.standing().values() for one in by["alice"].values()]
    assert len(when) == 10
    assert all(before <= one <= time.time() for one in when)
    verdicts = [trace.verdicts.get("person:alice") for trace in store.traces()]
    assert [said and said.score for said in verdicts] == [1.0, 0.0, None]
    browser.press("u", "u")  # undo, twice
    browser.until(f"{MARKED}.length === 3")
    browser.press("ArrowUp", "3")  # another word on the third
    browser.until(f"{MARKED}.includes('wrong') && !document.querySelector('.saving')")
    assert labels_of(store, "alice") == [1, 0, 1, 1, 0, 1, 1, -1]
    browser.open(f"{url}/label")  # the name is asked once
    browser.until("document.querySelectorAll('#moves li').length > 3")
    assert not browser.ask("document.getElementById('naming').open")
    assert browser.ask("document.getElementById('count').textContent") == "2 of 3 done"
    assert browser.ask("document.title") == "Label · forethought"
    assert browser.hosts() == {url.removeprefix("http://")}
    assert browser.complaints() == []


def test_in_a_browser_a_label_is_shown_once_it_is_on_disk(
    browser: Browser, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(browser, url, "alice")
    may, put = threading.Event(), Labels.put

    def slow(self: Labels, *told: Any) -> float:
        assert may.wait(60)
        return put(self, *told)

    monkeypatch.setattr(Labels, "put", slow)
    browser.press("1")
    browser.until(f"{MARKED}.length")
    assert browser.ask(MARKED) == ["saving …"]
    may.set()
    browser.until(f"{MARKED}[0] === 'right'")

    def full(self: Labels, *told: Any) -> float:
        raise OSError(28, "no space left")

    monkeypatch.setattr(Labels, "put", full)
    browser.press("1")
    browser.until("!document.getElementById('wrong').hidden")
    browser.until("!document.querySelector('.saving')")
    assert browser.ask(MARKED) == ["right"]
    assert "no space left" in browser.ask("document.getElementById('wrong').textContent")


def test_in_a_browser_a_step_is_edited_and_gone_on_with(browser: Browser, url: str, store: Store) -> None:
    opened(browser, url, "alice")
    browser.press("1", "3")
    browser.until(f"{MARKED}.length === 2 && !document.querySelector('.saving')")
    browser.press("k", "e")
    browser.until("document.activeElement.id === 'words'")
    assert browser.ask("document.getElementById('words').value") == LINES[1]
    browser.press("1")  # a key in the editor is a letter
    browser.ask("document.getElementById('words').value = '48 / 2 = 24 in May.'")
    browser.ask("document.getElementById('editor').requestSubmit()")
    browser.until("!document.getElementById('edited').hidden")
    (kept,) = store.traces(run=CORRECTED)
    assert "alice" in kept.verdicts[EDITED].note
    assert browser.ask("document.getElementById('edited').textContent") == kept.verdicts[EDITED].note
    browser.until("document.activeElement.id === 'moves'")
    browser.press("1", "1")
    browser.until(f"{MARKED}.length === 3 && !document.querySelector('.saving')")
    (kept,) = store.traces(run=CORRECTED)
    assert kept.verdicts["person:alice"].score == 1.0
    assert browser.hosts() == {url.removeprefix("http://")}
    assert browser.complaints() == []


def test_in_a_browser_two_people_are_kept_apart_and_compared(browser: Browser, url: str, store: Store) -> None:
    trace = next(store.traces())
    for place, label in zip(ends(trace), (1, -1, 1, 1, 1), strict=True):
        store.labels.put(trace, "bob", place, label)
    opened(browser, url, "alice")
    browser.ask("(o => { o.value = 'second'; o.dispatchEvent(new Event('change')) })(document.getElementById('order'))")
    browser.until(f"document.getElementById('title').textContent === '{trace.problem_id}'")
    assert not browser.ask("document.getElementById('thought').textContent.includes('bob')")
    browser.press("1", "1", "1", "1", "1")
    browser.until("document.getElementById('others').textContent.includes('bob: differs: step 2 wrong')")
    browser.until("document.getElementById('agreement').textContent.includes('80 %')")
    assert labels_of(store, "alice") == [1] * 5
    assert labels_of(store, "bob") == [1, -1, 1, 1, 1]


def test_in_a_browser_labelling_fits_a_phone_in_the_dark(browser: Browser, url: str, store: Store) -> None:
    browser.screen(360, 740, dark=True)
    opened(browser, url, "alice")
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 24)"
    browser.ask("document.querySelector('#bar .right').click()")  # without a keyboard
    browser.until(f"{MARKED}[0] === 'right'")
    browser.screen()
    assert labels_of(store, "alice") == [1]
    assert browser.complaints() == []
