"""Whose turn it is, over epochs."""

from collections import Counter

from gtcrn.data.turns import Turns, counts_of


def test_every_row_comes_before_any_comes_again():
    turns = Turns([10, 7], [4, 13], seed=3)
    assert len(turns) == 17
    seen = {0: [], 1: []}
    for epoch in range(35):
        items = [turns(epoch, index) for index in range(17)]
        assert Counter(corpus for corpus, _, _ in items) == {0: 4, 1: 13}
        for corpus, passes, row in items:
            seen[corpus].append((passes, row))
    for corpus, size in ((0, 10), (1, 7)):
        for passes in range(len(seen[corpus]) // size):
            assert sorted(seen[corpus][passes * size : (passes + 1) * size]) == [(passes, row) for row in range(size)]
    rows = [row for _, row in seen[0]]
    assert rows[:10] != rows[10:20]


def test_a_turn_depends_on_its_arguments_only():
    turns, again = Turns([1000], [300], 1), Turns([1000], [300], 1)
    forwards = [turns(epoch, index) for epoch in range(7) for index in range(300)]
    backwards = [again(epoch, index) for epoch in reversed(range(7)) for index in reversed(range(300))]
    assert forwards == backwards[::-1]
    assert forwards != [Turns([1000], [300], 2)(epoch, index) for epoch in range(7) for index in range(300)]


def test_counts_are_shares_to_the_item():
    assert counts_of(1000, [0.3, 0.7]) == [300, 700]
    assert counts_of(10, [1, 1, 1]) == [3, 4, 3]
    assert sum(counts_of(7, [0.5, 0.25, 0.25])) == 7
