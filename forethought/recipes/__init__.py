"""One file per method: the command and the number to expect, a `Config`, a loop that fits on a screen."""

RECIPES: dict[str, str] = {
    "sft": "imitate worked examples",
    "star": "imitate its own correct thoughts, restarting from the base each round (STaR)",
    "verifier": "learn to tell right thoughts from wrong ones: outcome, process, bradley_terry or value head",
    "generative": "learn to say whether an answer is right, as a language model, with or without a critique (GenRM)",
    "critic": "quote the errors of tampered solutions and of its own, and leave graded critiques behind",
    "grpo": "reinforce thoughts by how much better than their group they are (GRPO, Dr. GRPO, DAPO, RLOO)",
}
"""What `forethought train` can run: each is a module here with `Config` and `main(config, resume)`."""
