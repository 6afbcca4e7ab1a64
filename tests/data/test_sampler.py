import pytest

from gtcrn.data.sampler import EpochSampler


def test_every_item_once_in_an_order_that_depends_on_seed_and_epoch_only():
    first = list(EpochSampler(100, seed=1, epoch=3))
    assert sorted(first) == [(3, index) for index in range(100)]
    assert list(EpochSampler(100, seed=1, epoch=3)) == first
    others = [EpochSampler(100, seed=1, epoch=4), EpochSampler(100, seed=2, epoch=3)]
    assert all([index for _, index in other] != [index for _, index in first] for other in others)
    assert [index for _, index in EpochSampler(5, seed=1, shuffle=False)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("length, world_size", [(12, 3), (13, 3), (2, 5), (1, 1)])
def test_ranks_share_an_epoch_without_loss(length, world_size):
    whole = [index for _, index in EpochSampler(length, seed=0)]
    shares = [[i for _, i in EpochSampler(length, seed=0, rank=r, world_size=world_size)] for r in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    given = [index for turn in zip(*shares) for index in turn]
    assert given[:length] == whole  # in the order of one device, nothing lost
    assert given[length:] == (whole * world_size)[: len(given) - length]  # only the documented padding


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_resumed_epoch_gives_exactly_the_rest(world_size):
    for rank in range(world_size):
        whole = list(EpochSampler(25, seed=0, rank=rank, world_size=world_size, epoch=2))
        resumed = EpochSampler(25, seed=0, rank=rank, world_size=world_size, epoch=2, start=7)
        resumed.set_epoch(2)  # as trainers do at the beginning of any epoch
        assert len(resumed) == len(whole)  # trainers count a resumed epoch's batches from its beginning
        assert list(resumed) == whole[7:]
        resumed.set_epoch(3)
        assert len(list(resumed)) == len(resumed) == len(whole)


def test_an_epoch_that_was_over_gives_nothing():
    sampler = EpochSampler(10, seed=0, start=10)
    assert list(sampler) == []
