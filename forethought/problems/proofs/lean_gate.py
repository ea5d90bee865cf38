"""What a model may write as a Lean proof, told token by token before Lean sees it.

Elaborating Lean runs programs, and a proof can change what the words behind it mean. So a proof is refused unless it is
plain terms and tactics: nothing that begins a command, programs the elaborator, leaves a hole, asks the compiler
instead of the kernel, or hides text from a reader. It is the first of three walls; the jail and the list of axioms are
the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LONGEST = 200_000
"""Characters."""

HOLES = ("sorry", "sorryAx", "mkSorry", "admit", "stop", "proof_wanted", "plausible", "slim_check")
TRUST = (
    *("native_decide", "native", "ofReduceBool", "ofReduceNat", "reduceBool", "reduceNat", "trustCompiler"),
    *("bv_decide", "bv_check"),
)
UNSAFE = (
    *("axiom", "axioms", "constant", "opaque", "unsafe", "partial", "implemented_by", "implementedBy", "extern"),
    *("csimp", "unsafeCast", "unsafeIO", "unsafeEIO", "unsafeBaseIO", "ptrAddrUnsafe", "lcProof", "lcUnreachable"),
    *("lcAny", "debug", "skipKernelTC", "addDecl"),
)
META = (
    *("elab", "elab_rules", "by_elab", "macro", "macro_rules", "syntax", "notation", "notation3", "infix", "infixl"),
    *("infixr", "prefix", "postfix", "declare_syntax_cat", "simproc", "dsimproc", "run_cmd", "run_tac", "run_elab"),
    *("run_meta", "eval_expr", "initialize", "builtin_initialize", "binder_predicate", "register_option"),
    *("Lean", "IO", "Elab", "Meta", "MetaM", "CoreM", "TermElabM", "TacticM", "CommandElabM", "Syntax", "System"),
)
OUTSIDE = (
    *("include_str", "include_bytes", "dbg_trace", "dbgTrace", "dbgTraceVal", "dbgTraceIfShared", "dbgStackTrace"),
    *("dbgSleep", "polyrith"),
)
COMMANDS = (
    *("theorem", "lemma", "def", "abbrev", "example", "instance", "class", "structure", "inductive", "coinductive"),
    *("namespace", "section", "end", "open", "export", "import", "set_option", "universe", "variable", "variables"),
    *("attribute", "deriving", "mutual", "noncomputable", "private", "protected", "include", "omit", "local", "scoped"),
    *("library_note", "add_decl_doc", "unseal", "seal", "public", "module", "meta", "prelude", "alias", "recall"),
    *("variable?", "whatsnew", "count_heartbeats", "sudo", "simproc_decl", "builtin_simproc", "builtin_dsimproc"),
    *("nonrec", "unif_hint", "init_quot", "grind_pattern", "irreducible_def", "suppress_compilation"),
    *("compile_inductive", "compile_def", "add_aesop_rules", "erase_aesop_rules", "declare_aesop_rule_sets"),
    *("initialize_simps_projections", "declare_simp_like_tactic", "register_simp_attr", "with_weak_namespace"),
)
REFUSED = {
    **dict.fromkeys(HOLES, "leaves a hole"),
    **dict.fromkeys(TRUST, "trusts the compiler"),
    **dict.fromkeys(UNSAFE, "goes round the kernel"),
    **dict.fromkeys(META, "programs the elaborator"),
    **dict.fromkeys(OUTSIDE, "reaches outside of the proof"),
    **dict.fromkeys(COMMANDS, "is no part of a proof"),
}
"""Word to what it does. A word is refused as any part of a dotted name, too: `Lean.Elab`, `_root_.sorryAx`."""

_WORD = re.compile(r"[^\W\d][\w!?'₀-₉ₐ-ₜᵢ-ᵪ]*")
_ASCII = re.compile(r"[A-Za-z_][A-Za-z0-9_!?']*")
_APART = frozenset(" \t\n([{,⟨")
"""What may stand before a string or a comment: behind other signs Lean may read on (`s!"`, `r"`, `<--`, `\\/-`)."""
_CHARACTER = re.compile(r"'(?:\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)|[^\\'\n])'")
_STRING = re.compile(r'"(?:\\.|[^"\\])*"', re.DOTALL)
_PLAIN = re.compile(r"[\n\t -~¬±·×÷ˣΑ-ωϐ-ϵ‖†‡•…′″⁅⁆⁰ⁱ⁴-ₜ℀-⅏←-⇿∀-⋿⌈-⌋⟦-⟫⟵-⟿⦃⦄⦋-⦘⨀-⫿▸▹◃◂▻◅∎✝«»‹›ᵀᵁᵃ-ᵪ₀-₉ᶜᶠᶦ¹²³ªµº𝒜-𝓏𝔸-𝕫]")


class Refusal(Exception):  # noqa: N818 - a verdict, not an error of ours
    """The proof may not be shown to Lean; the text says which word, and why."""


def inspect(proof: str) -> None:
    """Raise `Refusal` unless `proof` is plain terms and tactics, its brackets, strings and comments closed."""
    if len(proof) > LONGEST:
        raise Refusal(f"the proof has {len(proof)} characters; at most {LONGEST} are read")
    for character in proof:
        if not _PLAIN.fullmatch(character):
            raise Refusal(f"the character {character!a} is none that proofs are written with")
    open_: list[str] = []
    for token in tokens(proof):
        # A letter beyond ASCII may be a sign of its own: Mathlib's `sorryᶜ`, and everywhere `sorryλ x => x`.
        for word in (token, *_ASCII.findall(token)):
            if word in REFUSED:
                raise Refusal(f"{word} {REFUSED[word]}")
        if token in "([{⟨⟪⦃":
            open_.append(token)
        elif token in ")]}⟩⟫⦄" and (not open_ or open_.pop() + token not in ("()", "[]", "{}", "⟨⟩", "⟪⟫", "⦃⦄")):
            raise Refusal(f"a {token} closes what was not opened")
    if open_:
        raise Refusal(f"a {open_[-1]} is never closed")


def tokens(proof: str) -> Iterator[str]:
    """Words, the parts of dotted names apart, and single signs; comments and plain strings are left out.

    Raises `Refusal` for what is never closed, and for signs that begin commands, quotations or interpolated strings.
    """
    at, size = 0, len(proof)
    while at < size:
        here = proof[at]
        apart = at == 0 or proof[at - 1] in _APART
        if proof.startswith(("--", "/-"), at) and not apart:
            raise Refusal(f"{proof[at : at + 2]} is read in two ways here; put a space before a comment")
        if proof.startswith("--", at):
            end = proof.find("\n", at)
            at = end if end >= 0 else size
        elif proof.startswith(("/--", "/-!"), at):
            raise Refusal("documentation is no part of a proof; begin a comment with /- and a space")
        elif proof.startswith("/-", at):
            at = _comment(proof, at)
        elif here == '"':
            if not apart:
                raise Refusal("a string that is raw or interpolated is no part of a proof; put a space before a string")
            string = _STRING.match(proof, at)
            if string is None:
                raise Refusal("a string is never closed")
            if "{" in string[0]:
                raise Refusal("a string with a { may hold code")
            at = string.end()
        elif here == "'" and (literal := _CHARACTER.match(proof, at)) is not None:
            if '"' in literal[0]:
                raise Refusal("a \" between ' is read in two ways; write '\\x22'")
            at = literal.end()
        elif here == "«":
            end = proof.find("»", at)
            if end < 0:
                raise Refusal("a « is never closed")
            yield from re.split(r"[.\s]+", proof[at + 1 : end])
            at = end + 1
        elif here == "#":
            raise Refusal("a # begins a command")
        elif here in "`$":
            raise Refusal(f"a {here} quotes code" if here == "`" else "a $ is read as a quotation's hole; write <|")
        elif proof.startswith("@[", at):
            raise Refusal("an attribute @[ ] is no part of a proof")
        elif (word := _WORD.match(proof, at)) is not None:
            if word[0] == "eval" and proof.startswith("%", word.end()):
                raise Refusal("eval% programs the elaborator")
            yield word[0]
            at = word.end()
        else:
            if not here.isspace():
                yield here
            at += 1


def _comment(proof: str, at: int) -> int:
    """Where the comment that begins here ends; comments nest."""
    depth, start = 0, at
    while at < len(proof):
        if proof.startswith("/-", at):
            depth, at = depth + 1, at + 2
        elif proof.startswith("-/", at):
            depth, at = depth - 1, at + 2
            if depth == 0:
                return at
        else:
            at += 1
    raise Refusal(f"the comment at character {start + 1} is never closed")
