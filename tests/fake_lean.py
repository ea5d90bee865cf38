"""A Lean that behaves as badly as real ones do, and answers by what the proof says: for tests of what talks to it.

python fake_lean.py repl      # leanprover-community/repl: JSON and an empty line, both ways
python fake_lean.py file      # lean --json --stdin
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import Any


def messages(source: str) -> list[dict[str, Any]]:
    """What Lean says of this source; a word in the proof chooses."""
    lines = source.split("\n")
    last = {"line": next((n for n, line in enumerate(lines, 1) if line.startswith("#print")), 1), "column": 0}

    def message(severity: str, data: str, line: int = 1, **more: Any) -> dict[str, Any]:
        return {"severity": severity, "pos": {"line": line, "column": 2}, "endPos": None, "data": data, **more}

    axioms = {"severity": "info", "pos": last, "data": "'t' depends on axioms: [propext, Quot.sound]"}
    if "wrong" in source:
        return [message("error", "unsolved goals\n⊢ False", 3), axioms]
    if "holed" in source:
        return [message("warning", "declaration uses 'sorry'"), axioms]
    if "cheating" in source:
        return [{**axioms, "data": "'t' depends on axioms: [propext,\n evil]"}]
    if "spoofing" in source:  # says the right words at the wrong place
        return [message("info", "'t' does not depend on any axioms", 2), {**axioms, "data": "[evil]"}]
    if "plain" in source:
        return [{**axioms, "data": "'t' does not depend on any axioms"}]
    return [axioms]


def misbehave(source: str) -> None:
    """Crash, hang or flood, where the proof says so."""
    if "crashing" in source:
        os._exit(139)
    if "hanging" in source:
        time.sleep(3600)
    if "flooding" in source:
        while True:
            sys.stdout.write("x" * 65536)


def repl() -> None:
    env, text = 0, ""
    for line in sys.stdin:
        if line.strip():
            text += line
            continue
        request = json.loads(text)
        text = ""
        source = request["cmd"]
        misbehave(source)
        env += 1
        if "garbling" in source:
            print("not JSON\n", flush=True)
        elif "refusing" in source:
            print(json.dumps({"message": "Unknown environment."}) + "\n", flush=True)
        elif source.startswith("import"):
            found = [] if "Missing" not in source else [{"severity": "error", "pos": None, "data": "no such module"}]
            print(json.dumps({"env": env, "messages": found}, indent=1) + "\n", flush=True)
        else:
            assert "env" in request or os.environ.get("BARE"), "the header was not used"
            found = messages(source)
            if (mark := re.search(r"#check \((\d+) : Nat\)", source)) is not None:
                found.append({"severity": "info", "pos": None, "data": f"{mark[1]} : Nat"})
            print(json.dumps({"env": env, "messages": found}, indent=1) + "\n", flush=True)
            if "chattering" in source:
                print(json.dumps({"env": env, "messages": messages("plain")}) + "\n", flush=True)


def file() -> None:
    source = sys.stdin.read()
    misbehave(source)
    print("[DEBUG] a build that prints more than messages")
    for message in messages(source):
        print(json.dumps(message))
    sys.exit(2 if "failing" in source else 1 if "wrong" in source else 0)


if __name__ == "__main__":
    {"repl": repl, "file": file}[sys.argv[1]]()
