"""A thousand answers that mean no good, the same on every machine: ten kinds, a hundred of each.

None of them is the answer of any problem in tests/test_grading_hostile.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

EACH = 100
"""Answers of a kind."""

_SOUND = (
    r"\frac{x^2+1}{2}", r"\sqrt{3}+\pi", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\{1, 2\} \cup [3, 4)",
    r"x \in \left(-\infty, 5\right]", r"\log_2 8", r"\binom{5}{2}", r"3 \times 10^{8} \text{ m}", r"y = mx + b",
)  # fmt: skip
_SHARDS = (
    "{", "}", "(", ")", "[", "]", "$", "$$", "\\", "\\\\", "^", "_", "&", "%", "#", "~", "!", "'", '"', "\n", "\x00",
    r"\frac", r"\sqrt", r"\left", r"\right", r"\begin{", r"\end{matrix}", r"\boxed{", r"\text{", r"\over", r"\\", "^^",
    "__", "**", "//", ",,", "=", "==", "<answer>", "</answer>", "####", "<think>", "`", "```", "|", "@", "\u200b",
)  # fmt: skip
_BRACKETS = (("(", ")"), ("{", "}"), ("[", "]"), (r"\left(", r"\right)"), (r"\sqrt{", "}"), (r"\frac{1}{1+", "}"),
             (r"\text{", "}"), (r"\boxed{", "}"), ("|", "|"), ("-(", ")"), (r"\{", r"\}"))  # fmt: skip
_DIGITS = ("\u0660", "\u06f0", "\u0966", "\uff10", "\U0001d7ce", "\U0001d7d8", "\u0ed0")
"""The zeros of other scripts; the nine that follow each are its digits."""
_SIGNS = ("\u200b", "\u202e", "\u2060", "\ufeff", "\u00b2", "\u2075", "\u00bd", "\u2167", "\u4e09", "\U0001f522",
          "\u0301", "\ud800", "\udfff", "\x07", "\u2028", "\u0131", "\uff0b")  # fmt: skip


def _towers(rng: random.Random) -> str:
    sign = rng.choice(("^", "**"))
    numbers = [str(rng.randint(3, 99)) for _ in range(rng.randint(3, 9))]
    match rng.randrange(4):
        case 0:
            return sign.join(numbers)
        case 1:
            return f"{sign}{{".join(numbers) + "}" * (len(numbers) - 1)
        case 2:
            return f"{sign}(".join(numbers) + ")" * (len(numbers) - 1)
        case _:
            return f"({numbers[0]}^{{{numbers[1]}}})^{{{rng.randint(10**4, 10**9)}^{{{numbers[2]}}}}}"


def _factorials(rng: random.Random) -> str:
    number, high = rng.randint(10, 10**9), rng.randint(3, 12)
    return rng.choice(
        (
            f"{number}{'!' * high}",
            "(" * high + str(number % 90 + 10) + "!)" * high,
            rf"\binom{{{number}{number}}}{{{number}}}",
            rf"\frac{{({number}!)!}}{{{number}!!}}",
            f"factorial(factorial({number}))",
            f"gamma({number}^{number})",
            f"{number + 10_001}!",
        )
    )


def _nesting(rng: random.Random) -> str:
    left, right = rng.choice(_BRACKETS)
    deep = rng.choice((31, 100, 1_000, 20_000))
    inner = rng.choice(("7", "x", "", "1+1"))
    return left * deep + inner + right * (deep - rng.choice((0, 0, 1, deep)))


def _long(rng: random.Random) -> str:
    many = rng.choice((49, 52, 300, 3_000))
    numbers = [str(rng.randint(0, 999)) for _ in range(many)]
    return rng.choice(
        (
            r"\{" + ", ".join(numbers) + r"\}",
            "+".join(f"x^{{{number}}}" for number in numbers),
            ";".join(numbers),
            r"\begin{matrix} " + r" \\ ".join(numbers) + r" \end{matrix}",
            "x" * many,
            " ".join(numbers),
            "=".join(numbers),
        )
    )


def _numbers(rng: random.Random) -> str:
    run = rng.choice("123456789") * rng.choice((61, 299, 5_000, 200_000))
    power = rng.randint(10**3, 10**12)
    return rng.choice(
        (run, f"-{run}", f"0.{run}", f"{run}/{run[:60]}1", f"1/0{'0' * rng.randint(0, 90)}", f"7e{power}",
         f"7e-{power}", f"0x{run}", f"{run[:9]}_{run[:2]}", f"{run[:3]}{',' * rng.randint(1, 90)}{run[:3]}",
         rf"\frac{{{run}}}{{0}}", rf"10^{{-{power}}}", f"7.{power}.7", f"({power})^({power})",
         rf"\sqrt[{power}]{{{run[:50]}}}")
    )  # fmt: skip


def _not_finite(rng: random.Random) -> str:
    name = rng.choice(("nan", "NaN", "inf", "Infinity", "infinity", "-inf", "+nan", "1e999", "None", "null", "True",
                       "undefined", "NULL", "...", "?", "any", "*", "all real numbers", "N/A", ""))  # fmt: skip
    dress = rng.choice(("{}", "${}$", r"\text{{{}}}", "x = {}", "{} + 1", "({})", "float('{}')", r"\{{{}\}}", "{}%"))
    return dress.format(name) + rng.choice(("", " ", ".", "\n", r"\,", "\u00a0"))


def _unicode(rng: random.Random) -> str:
    zero = rng.choice(_DIGITS)
    digits = [chr(ord(zero) + rng.randrange(10)) for _ in range(rng.randint(1, 6))]
    for _ in range(rng.randint(0, 3)):
        digits.insert(rng.randint(0, len(digits)), rng.choice(_SIGNS))
    return "".join(digits)


def _fuzz(rng: random.Random) -> str:
    text = rng.choice(_SOUND)
    for _ in range(rng.randint(2, 12)):
        start = rng.randint(0, len(text))
        end = min(len(text), start + rng.choice((0, 0, 1, 3)))
        text = text[:start] + rng.choice(_SHARDS) * rng.choice((1, 1, 2, 9)) + text[end:]
    return text


def _work(rng: random.Random) -> str:
    """Short to write, endless to work out."""
    big, letter = 10 ** rng.randint(3, 12) + rng.randint(0, 99), rng.choice("xyzn")
    return rng.choice(
        (
            rf"\sum_{{{letter}=1}}^{{{big}}} {letter}^{{{rng.randint(2, 99)}}}",
            rf"\prod_{{{letter}=1}}^{{{big}}} ({letter}+1)",
            rf"({letter}+1)^{{{rng.randint(2_000, 10_000)}}}",
            rf"\int_0^{{{big}}} e^{{-{letter}^2}} \sin({letter}^{{{rng.randint(3, 50)}}}) d{letter}",
            rf"\lim_{{{letter} \to \infty}} (1+\frac{{1}}{{{letter}}})^{{{letter}}} + {big}",
            rf"2^{{10^{{{rng.randint(5, 11)}}}}}",
            rf"\sqrt{{{big}}}^{{{rng.randint(1_001, 9_999)}}}+\sqrt[{rng.randint(3, 99)}]{{{letter}+{big}}}",
            rf"\gcd({big}!, {big + 1})",
        )
    )


_DEFINES = (
    "    class Same(int):\n        __eq__ = lambda self, other: True\n        __hash__ = int.__hash__\n"
    "    return Same()",
    "    class Any:\n        def __eq__(self, other): return True\n        def __getattr__(self, name): return self\n"
    "        def __call__(self, *a): return True\n    return Any()",
    "    import os; os._exit({code})",
    "    raise SystemExit({code})",
    "    raise AssertionError({code})",
    "    while True: pass",
    "    return [0] * 10 ** {power}",
    "    return square(n)",
    "    import time; time.sleep({power})",
    "    import sys; sys.stdout.write('ok\\n' * {power}); sys.stdout.flush(); return {code}",
    "    import os\n    for fd in range(64):\n        try: os.write(fd, b'true\\n{code}\\n')\n"
    "        except OSError: pass",
    "    return float('nan')",
    "    return 9 ** 9 ** 9 ** {code}",
    "    import os, signal; os.kill(os.getppid(), signal.SIGKILL); os.kill(os.getpid(), signal.SIGKILL)",
    "    yield from iter(int, {power})",
    "    a = []; a.append(a); return a",
)
_MODULES = (
    "import os; os._exit({code})",
    "import sys; sys.exit({code})",
    "import builtins; builtins.AssertionError = builtins.BaseException = None",
    "import json; json.loads = json.dumps = lambda *a, **k: {{'passed': True, 'score': {code}}}",
    "print('passed'); print('1.0'); print({code})",
    "import atexit, os; atexit.register(os._exit, {code})",
    "__name__ = '__main__'; square = lambda n: True",
    "import sys; sys.modules['json'] = sys.modules['math'] = None; square = {code}",
    "import os\nwhile True: os.fork()",
    "x = " + "(" * 5_000 + "1" + ")" * 5_000,
    "square = type('S', (), {{'__call__': lambda s, n: s, '__eq__': lambda s, o: True}})()",
    "import sys, threading; threading.Thread(target=lambda: [None for _ in iter(int, {power})]).start()",
    "import sys; sys.settrace(lambda *a: sys.exit({code})); square = abs",
    "__import__('os').system('true') or {code}",
    "\x00\x00{code}",
    "import sys; sys.setrecursionlimit(10 ** {code} + 10 ** 6); square = lambda n: square(n)",
)


def _programs(rng: random.Random) -> str:
    values = {"code": rng.randint(0, 99), "power": rng.randint(9, 15)}
    if rng.random() < 0.5:
        return "def square(n):\n" + rng.choice(_DEFINES).format(**values)
    return rng.choice(_MODULES).format(**values)


KINDS: dict[str, Callable[[random.Random], str]] = {
    "towers": _towers,
    "factorials": _factorials,
    "nesting": _nesting,
    "long": _long,
    "numbers": _numbers,
    "not finite": _not_finite,
    "unicode": _unicode,
    "fuzz": _fuzz,
    "work": _work,
    "programs": _programs,
}


def hostile_answers(each: int = EACH) -> Iterator[tuple[str, str]]:
    """The kind and the text of the first `each` answers of every kind, no text twice in a kind."""
    for kind, make in KINDS.items():
        rng, seen = random.Random(kind), set[str]()
        while len(seen) < each:
            text = make(rng)
            if text not in seen:
                seen.add(text)
                yield kind, text
