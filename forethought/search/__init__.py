"""Spend compute to find a better thought than the model would blurt out.

`search = async (messages, engine, *, budget, verify, sampling, ...) -> Tree`. A search asks the engine for one sample
at a time, concurrently, books every token in an `Account`, and never sees a problem or its answer.
"""

from __future__ import annotations

from functools import partial

from forethought.search import beam, best_of_n, choose, forcing, lookahead, mcts, mix, particle, revise

SEARCHES: dict[str, mix.Search] = {
    "best-of-n": best_of_n.best_of_n,
    "majority": partial(best_of_n.best_of_n, choose=choose.majority),
    "weighted": partial(best_of_n.best_of_n, choose=choose.weighted),
    "beam": partial(beam.beam, choose=choose.weighted),
    "lookahead": partial(lookahead.lookahead, choose=choose.weighted),
    "dvts": partial(beam.dvts, choose=choose.weighted),
    "mcts": mcts.mcts,
    "particle": particle.particle,
    "revise": revise.revise,
    "mix": mix.mix,
    "force": forcing.force,
}
"""Name to search, with the choice its paper makes; knobs as each function has them."""
