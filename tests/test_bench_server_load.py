"""The load that `benchmarks/server_load.py` puts on a server, in short: nothing breaks, and no settings are mixed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from server_load import Config, Seen, Watched, figures, load, plans


def test_a_loaded_server_makes_no_error_and_mixes_no_settings() -> None:
    config = Config(seconds=4.0, clients=8)
    seen, watched, complaints, inside = asyncio.run(load(config))
    assert (seen.errors, seen.mixed, complaints, inside) == ([], [], [], 0)
    assert len(seen.idle) == 4 * config.clients
    assert seen.requests["answered"] > 4 * config.clients
    assert seen.requests["left"]
    assert seen.requests["refused"]
    assert watched.memory


def test_no_two_clients_ask_the_same() -> None:
    asked = [str(plan.body) for client in range(64) for plan in plans(client)]
    assert len(set(asked)) == len(asked)


def test_an_answer_by_anothers_settings_is_seen() -> None:
    stopped, _, held, _ = plans(1)
    assert not stopped.wrong("!", None)
    assert "stop string" in stopped.wrong(f"!{stopped.body['stop'][0]}", None)
    assert "asked alone" in stopped.wrong("!", "?")
    assert not held.wrong('{"name":"client 1"}', None)
    assert "client 2" in held.wrong('{"name":"client 2"}', None)


def test_a_goal_that_is_missed_is_named() -> None:
    watched = Watched(memory=[(0.5, 100), (4.5, 120)], blocked=[{"seconds": 0.2, "cpu": 0.15, "process": 0.15}])
    told = figures(Config(seconds=5.0), Seen(idle=[0.3], errors=["x"], mixed=["y"]), watched, ["z"], 1)
    assert not any(told["goals"].values())
    assert (told["errors"], told["mixed"], told["growth"], told["blocked"]) == (3, 1, 1.2, 1)
    fine = Watched(memory=[(0.5, 100), (4.5, 104)])
    assert all(figures(Config(seconds=5.0), Seen(idle=[0.1]), fine, [], 0)["goals"].values())
