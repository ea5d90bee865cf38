"""An answer as it is compared: LaTeX spelling, units, percent and number read off, nothing evaluated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 300
"""Characters beyond which an answer is only compared as it stands."""

_SIGNS = str.maketrans(
    {
        "\u2212": "-",  # minus sign
        "\u2013": "-",  # en dash
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
        "\u00d7": r"\times ",
        "\u00b7": r"\cdot ",
        "\u00f7": r"\div ",
        "\u03c0": r"\pi ",
        "\u221a": r"\sqrt ",
        "\u221e": r"\infty ",
        "\u00b0": r"^\circ ",
    }
)
# In this order. Each is linear in the text, which is at most LONGEST characters here.
_REWRITES = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r",\\!\s*|\{,\}", ","),
        (r"(?<=[0-9])\\,\s*(?=[0-9]{3}(?![0-9]))", ","),
        (r"\\\$|\$|(?<!\\)\\!|\\(?:left|right)\s*\.(?![0-9])|\\(?:left|right|displaystyle|textstyle)(?![a-zA-Z])", ""),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-zA-Z])", " "),  # but `\\ ` ends a matrix row
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:mbox|textrm|textbf|textit|textnormal|mathrm|mathbf)(?=\s*\{)", r"\\text"),
        (r"\\frac\s*([0-9a-zA-Z])", r"\\frac{\1}"),
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9a-zA-Z])", r"\1{\2}"),
        (r"\\sqrt\s*([0-9a-zA-Z])", r"\\sqrt{\1}"),
        (r"\s+", " "),
    )
)
_WRAPPED = re.compile(r"\\\((.*)\\\)|\\\[(.*)\\\]|\\(?:boxed|text)\s*\{([^{}]*)\}|\{([^{}]*)\}|\*\*(.*)\*\*", re.DOTALL)
_PERCENT = re.compile(r"(?:\\?%|\bpercent|\\text\s*\{\s*percent\s*\})$", re.IGNORECASE)
_DEGREES = re.compile(r"\s*\^\s*(?:\\circ|\{\s*\\circ\s*\})$|\s*\\degree$")
_POWER = r"(?:\s*\^\s*\{?\s*[23]\s*\}?)?"
_TEXT_UNIT = re.compile(
    rf"(?P<value>.*(?:[0-9}})\]]|\\pi))\s*\\text\s*\{{\s*(?P<unit>[A-Za-z][A-Za-z. /]*)\}}{_POWER}$"
)
_WORD_UNIT = re.compile(rf"(?P<value>[-+]?[0-9][0-9.,/]*) (?P<unit>[A-Za-z]{{2,}}(?: [A-Za-z]{{2,}})*\.?){_POWER}$")
_BASED = re.compile(r"([-+]?[0-9][0-9A-F]*)_\{?([0-9]{1,2})\}?$")
_LABELLED = re.compile(r"[A-Za-z](?:\([a-z]\))?=(?!=)(.+)$")

NOT_UNITS = frozenset(
    {"hundred", "thousand", "million", "billion", "trillion", "dozen", "percent", "squared", "cubed", "mod", "base"}
    | {"and", "or", "to", "times", "plus", "minus", "over", "pi", "tau", "sqrt"}
    | {"sin", "cos", "tan", "log", "ln", "exp"}
)
"""Words after a number that change its value, so that it cannot be read without them."""
NOT_FINITE = frozenset(f"{sign}{name}" for sign in ("", "+", "-") for name in ("nan", "inf", "infinity"))
"""What Python reads as a float and no answer is."""
FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "log", "exp"}
    | {"sqrt", "frac", "min", "max", "gcd", "lcm", "mod", "det", "lim", "and"}
)
"""Words that mathematics is written with."""

_DECIMAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_NUMBER = re.compile(rf"([-+]?{_DECIMAL}(?:[eE][-+]?[0-9]{{1,3}})?)$")
_GROUPED = re.compile(r"[-+]?[0-9]{1,3}(?:[, ][0-9]{3})+(?:\.[0-9]+)?$")
_FRACTION = re.compile(
    r"(?P<sign>[-+]?)(?P<whole>[0-9]+ ?)??"
    r"(?:(?P<n>[0-9]+)/(?P<d>[0-9]+)|\\frac\{(?P<s>-?)(?P<n2>[0-9]+)\}\{(?P<d2>[0-9]+)\})$"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer, read."""

    text: str
    """Its LaTeX without dressing, unit and percent sign: what math-verify would be given."""
    key: str
    """The same without spaces and with one spelling; equal keys are equal answers."""
    number: Fraction | None = None
    """Its exact value where it is a plain number: whole, decimal, fraction or mixed."""
    unit: str = ""
    percent: bool = False
    base: str = ""
    """The base written as a subscript of the digits."""

    @property
    def canonical(self) -> str:
        """One spelling for all that are equal without algebra; votes count these."""
        value = str(self.number) if self.number is not None else self.key
        return f"{value}{'%' if self.percent else ''}{f'_{self.base}' if self.base else ''}"


def read(answer: str) -> Reading:
    """Read an answer; a very long one only as it stands."""
    if len(answer) > LONGEST:
        return Reading(text=answer, key=" ".join(answer.split()))
    text = _tidy(answer)
    percent = _PERCENT.search(text)
    text = _PERCENT.sub("", text).rstrip()
    text, unit = _unit(text)
    key = _key(text)
    base = _BASED.match(key)
    if base:
        key, text = base[1], base[1]
    elif (label := _LABELLED.match(key)) and (value := _number(label[1])) is not None:
        # x = 5 answers the same question as 5
        return Reading(text=label[1], key=label[1], number=value, unit=unit, percent=bool(percent))
    number = None if base else _number(key)
    return Reading(text=text, key=key, number=number, unit=unit, percent=bool(percent), base=base[2] if base else "")


def is_words(text: str) -> bool:
    """Is this answer plain text (a name, a day, yes or no), and so compared as text only?

    A word of three letters or more outside a LaTeX command is, unless it names a function; so are a capital (a choice)
    and a two-letter word with a vowel that stand alone, and a time of day. `abc` counts as a word: better to refuse
    `bca` than to take `lube` for `blue`, which as products are equal.
    """
    if re.search(r"[0-9]:[0-9]{2}", text) or not text.isascii():
        return True
    bare = re.sub(r"\\text(?![a-zA-Z])", " ", text)
    bare = re.sub(r"\\(?:begin|end)\s*\{[^{}]*\}|\\[a-zA-Z]+", " ", bare).strip()
    if re.fullmatch(r"[A-Z]|\([A-Z]\)", bare):
        return True
    if re.fullmatch(r"[A-Za-z]{2}", bare) and re.search("[aeiou]", bare.lower()) and bare.lower() != "pi":
        return True
    return any(word.lower() not in FUNCTIONS for word in re.findall(r"[A-Za-z]{3,}", bare))


def _tidy(answer: str) -> str:
    text = answer.translate(_SIGNS).strip()
    for pattern, by in _REWRITES:
        text = pattern.sub(by, text)
    while True:
        text = text.strip()
        if text.endswith(".") or text.endswith(","):
            text = text[:-1]
        elif inner := _WRAPPED.fullmatch(text):
            text = next(group for group in inner.groups() if group is not None)
        else:
            return text


def _unit(text: str) -> tuple[str, str]:
    if _DEGREES.search(text):
        return _DEGREES.sub("", text).rstrip(), "degree"
    match = _TEXT_UNIT.fullmatch(text) or _WORD_UNIT.fullmatch(text)
    if match is None or NOT_UNITS & set(re.findall("[a-z]+", match["unit"].lower())):
        return text, ""
    power = re.search(r"\^\s*\{?\s*([23])", text[match.end("unit") :])
    unit = match["unit"].strip().rstrip(".").lower().removesuffix("s")
    return match["value"].rstrip(), unit + (power[1] if power else "")


def _key(text: str) -> str:
    key = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    key = re.sub(r"(?<![0-9]) | (?![0-9])", "", key)  # between two digits a space tells two numbers from one
    key = re.sub(r"([_^])\{([0-9a-zA-Z])\}", r"\1\2", key).replace("**", "^")
    key = re.sub(r"\\([lgn])e(?![a-zA-Z])", r"\\\1eq", key)
    if re.fullmatch(r"\([A-Z]\)", key):
        key = key[1:-1]  # a choice
    return key.lower() if is_words(text) else key


def _number(key: str) -> Fraction | None:
    if len(key) > 80:
        return None
    if _GROUPED.match(key):
        key = re.sub("[, ]", "", key)
    if match := _NUMBER.match(key):
        return Fraction(match[1])
    match = _FRACTION.match(key)
    if match is None:
        return None
    whole, top, bottom = match["whole"], match["n"] or match["n2"], int(match["d"] or match["d2"])
    if bottom == 0 or (whole and (match["s"] or (match["n"] and not whole.endswith(" ")))):
        return None
    value = Fraction(int(top), bottom) + int(whole or 0)
    return -value if (match["sign"] == "-") != bool(match["s"]) else value
