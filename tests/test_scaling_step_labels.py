"""What labels of n continuations get wrong, held against every choice of n that there is."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from forethought.scaling.step_labels import Place, hard, independent, label_errors, soft, soft_error, straight

PLACES = [Place(sound, right, 5) for sound in (True, False) for right in range(6)]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_a_label_is_the_mean_over_every_choice_of_n_continuations(n: int) -> None:
    for place in PLACES:
        draws = list(combinations([1] * place.right + [0] * (5 - place.right), n))
        shares = [sum(draw) / n for draw in draws]
        assert hard(place, n) == pytest.approx(np.mean([share > 0 for share in shares]))
        assert soft(place, n) == pytest.approx(np.mean([(share > 0.5) + 0.5 * (share == 0.5) for share in shares]))
        assert soft_error(place, n) == pytest.approx(np.mean([(share - place.sound) ** 2 for share in shares]))


def test_errors_are_shares_of_the_sound_places_and_of_the_others_by_problem() -> None:
    groups = [[Place(True, 1, 2), Place(True, 2, 2), Place(False, 1, 2)], [Place(True, 0, 2)]]
    missed, passed, accuracy = label_errors(groups, hard, 1)
    assert missed.tolist() == [0.25, 1.0]
    assert passed[0] == 0.5
    assert np.isnan(passed[1])
    assert accuracy.tolist() == [pytest.approx(2 / 3), 0.0]
    assert label_errors(groups, independent, 2)[0].tolist() == [0.125, 1.0]
    assert label_errors([], hard, 1)[2].shape == (0,)


def test_a_line_is_found_and_what_it_explains() -> None:
    assert straight([1, 2, 4], [5, 7, 11]) == pytest.approx((3, 2, 1))
    start, slope, explained = straight([0, 1, 2, 3], [0, 1, 0, 1])
    assert (start, slope, explained) == pytest.approx((0.2, 0.2, 0.2))
    assert straight([1, 2, 3], [4, 4, 4])[2] == 1


def test_refusals() -> None:
    with pytest.raises(ValueError, match="3 right of 2"):
        Place(True, 3, 2)
    with pytest.raises(ValueError, match="draw at least 1"):
        Place(True, 0, 0)
    for rule in (hard, soft, soft_error):
        with pytest.raises(ValueError, match="from 3 continuations cannot be had from 2"):
            rule(Place(True, 1, 2), 3)
    with pytest.raises(ValueError, match="three points"):
        straight([1, 2], [1, 2])
