"""Which of reasoning-gym's tasks are used, and what an audit of all 106 found about the others.

A task is allowed where its scorer gave 1 to its own answers and at most 0.05 to junk, never ran the answer as code and
never hung, and where a problem of its lowest level takes at most some 20 ms to make.
"""

from __future__ import annotations

from typing import Literal

AUDITED = "0.1.25"
"""The version of the package that was looked at; its `__version__` says 0.1.19."""

_ALLOWED = """
ab advanced_geometry aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation bitwise_arithmetic
caesar_cipher calendar_arithmetic chain_sum circuit_logic color_cube_rotation count_bits count_primes course_schedule
cryptarithm decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font
fraction_simplification gcd group_anagrams isomorphic_strings jugs kakurasu largest_island lcm leg_counting
letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid needle_haystack
number_filtering number_format number_sequence palindrome_generation palindrome_partitioning path_star
polynomial_equations pool_matrix power_function products quantum_lock ransom_note rearc rectangle_count rotate_matrix
rotten_oranges self_reference sentence_reordering shortest_path simple_equations simple_geometry spell_backward
string_manipulation string_splitting string_synthesis sudoku survo syllogism tower_of_hanoi tsumego
word_sequence_reversal word_sorting
"""
ALLOWED = frozenset(_ALLOWED.split())
"""Judged by reasoning-gym's own scorer."""

Own = Literal["expression", "text"]

OWN: dict[str, Own] = {
    "countdown": "expression",
    "puzzle24": "expression",
    "binary_matrix": "text",
    "game_of_life": "text",
    "game_of_life_halting": "text",
    "number_sorting": "text",
    "prime_factorization": "text",
    "spiral_matrix": "text",
    "string_insertion": "text",
}
"""Their scorers run or misread the answer: ours judge, an `expression` as countdown's, a `text` by letters."""

REFUSED = {
    "acre": "it has no levels",
    "boxnet": "it has no answer of its own, and its scorer raises on junk",
    "coin_flip": "its scorer gives 1 to the answer 0",
    "complex_arithmetic": "its scorer gives 1 to the answer nan",
    "codeio": "the same index makes another problem in another process",
    "composite": "it is a mixture; mix tasks instead",
    "futoshiki": "a problem takes 98 ms to make",
    "graph_color": "it has no answer of its own",
    "gsm_symbolic": "it has no levels",
    "intermediate_integration": "its scorer runs the answer as code",
    "knight_swap": "a problem takes 157 ms to make",
    "knights_knaves": "its scorer gives 0.65 to the question's own words",
    "list_functions": "it has no levels",
    "n_queens": "its scorer runs the answer as code",
    "polynomial_multiplication": "its scorer runs the answer as code",
    "propositional_logic": "it has no answer of its own",
    "rubiks_cube": "it has no answer of its own",
    "rush_hour": "it has no answer of its own",
    "simple_integration": "its scorer runs the answer as code",
    "sokoban": "a problem can take more than 20 s to make",
    "time_intervals": "its scorer gives a share to what is not solved",
    "word_ladder": "it has a bounded number of problems, which it makes all at once",
    "zebra_puzzles": "a problem takes 73 ms to make",
}
"""Name to what was found."""
