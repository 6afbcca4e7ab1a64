"""The order of the files of several corpora over many epochs."""

from collections import Counter

from gtcrn.data.epoch_order import EpochOrder, apportion


def test_every_file_is_used_before_any_is_repeated():
    order = EpochOrder([10, 7], [4, 13], seed=3)
    assert len(order) == 17
    seen = {0: [], 1: []}
    for epoch in range(35):
        items = [order(epoch, index) for index in range(17)]
        assert Counter(corpus for corpus, _, _ in items) == {0: 4, 1: 13}
        for corpus, passes, row in items:
            seen[corpus].append((passes, row))
    for corpus, size in ((0, 10), (1, 7)):
        for passes in range(len(seen[corpus]) // size):
            assert sorted(seen[corpus][passes * size : (passes + 1) * size]) == [(passes, row) for row in range(size)]
    rows = [row for _, row in seen[0]]
    assert rows[:10] != rows[10:20]


def test_the_order_depends_on_its_arguments_only():
    order, again = EpochOrder([1000], [300], 1), EpochOrder([1000], [300], 1)
    forwards = [order(epoch, index) for epoch in range(7) for index in range(300)]
    backwards = [again(epoch, index) for epoch in reversed(range(7)) for index in reversed(range(300))]
    assert forwards == backwards[::-1]
    assert forwards != [EpochOrder([1000], [300], 2)(epoch, index) for epoch in range(7) for index in range(300)]


def test_counts_are_shares_to_the_item():
    assert apportion(1000, [0.3, 0.7]) == [300, 700]
    assert apportion(10, [1, 1, 1]) == [3, 4, 3]
    assert sum(apportion(7, [0.5, 0.25, 0.25])) == 7
