"""The command line: `forethought COMMAND`, one module a command. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from forethought import __version__
from forethought.cli.terminal import tell, unknown

COMMANDS = {
    "demo": ("train", "teach a model to think, let it think longer, report what both bought"),
    "solve": ("solve", "answer one question, thinking as long as you allow"),
    "train": ("train", "teach a model: sft, star, grpo; or a verifier: verifier, generative, critic"),
    "label": ("label", "label the steps of thoughts: what is right, or what comes of going on from there"),
    "verify": ("verify", "train a verifier, or have one judge the thoughts of a store"),
    "eval": ("evaluate", "measure a model on problems whose answers can be checked"),
    "sweep": ("sweep", "measure searches at one grid of budgets: what thinking longer buys"),
    "allocate": ("allocate", "from a sweep, which search to take for which difficulty and budget"),
    "overlap": ("overlap", "was the test in the training data: which questions share a run of words with it"),
    "serve": ("serve", "serve models that think before they answer, over OpenAI's API"),
    "report": ("report", "write a run's report again from what it measured"),
    "models": ("models", "which models there are, and how to name any other"),
    "sandbox": ("sandbox", "try out what encloses the programs that a model writes: doctor"),
    "store": ("store", "look into the traces that a run kept: ls, show, tree, labels, export"),
}
"""Command to (module here, what it does). Each module has a function of the command's own name, words in, exit out."""

USAGE = f"""usage: forethought COMMAND [options]

Teach a language model to think before it answers, let it think longer, and measure what both bought.

{chr(10).join(f"  {name:<9} {what}" for name, (_, what) in COMMANDS.items())}

  forethought COMMAND --help   the options of one command
  forethought --version
  --debug                      show the traceback of an error (or set FORETHOUGHT_DEBUG=1)

  forethought demo
  forethought solve "3 + 9 + 5 = ?" --think high --show-thought
  forethought eval --model smollm2-135m --problems sums --limit 200 --k 8
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 (no answer found), 2 (what was asked is wrong) or 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("FORETHOUGHT_DEBUG", "0") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character is no reason to stop
            stream.reconfigure(errors="replace")
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if words[0] in ("-V", "--version"):
        print(f"forethought {__version__}")
        return 0
    try:
        return _command(words[0], words[1:])
    except KeyboardInterrupt as stopped:
        tell(f"\nstopped{f'; go on with: {stopped}' if str(stopped) else ''}")
        return 130
    except BrokenPipeError:  # whoever read our output has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if debug:
            raise
        tell(f"error: {' '.join(str(error).split()) or type(error).__name__}")
        return 2


def _command(name: str, words: list[str]) -> int:
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    module, _ = COMMANDS[name]
    # By name, so that `forethought models` need not wait for torch; the commands are `COMMANDS`, never the user's.
    run = getattr(importlib.import_module(f"forethought.cli.{module}"), name)
    return int(run(words))
