"""One file per claim of a paper: its arms, its seeds, and the paper's figure beside ours. `docs/labs.md` lists them."""
