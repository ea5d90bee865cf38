"""What thinking and learning bought: measured from one pool of samples, costed, drawn, and written as one page.

`measure` turns graded traces into numbers with intervals, `cost` counts FLOPs, `stages` keeps what a run measured,
`plot` draws, `table` prints for a terminal, `report` writes the page, `tree_page` that of one search.
"""
