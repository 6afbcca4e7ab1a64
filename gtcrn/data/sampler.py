"""The sampler of training: the order of the items of an epoch, their share for each device, and the resuming point."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from gtcrn.data.seeding import generator


class EpochSampler(Sampler[tuple[int, int]]):
    """A sampler that yields `(epoch, index)`, so that persistent workers know the epoch of each item.

    The order of an epoch is a pure function of (seed, epoch). Rank r of W takes the items r, r + W, r + 2W
    ... of it; when W does not divide the length, the epoch's first items are repeated at its end so that
    all ranks have equally many (no others are repeated, none is lost).

    start: items of `epoch` this rank has already seen; a resumed run gets the others. Later epochs are whole.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        epoch: int = 0,
        start: int = 0,
    ):
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start = epoch, start

    def set_epoch(self, epoch: int) -> None:
        """Go on to another epoch. Naming the current one changes nothing: trainers do so on resuming."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        """Return the items of a whole epoch on this rank, also when `start` leaves fewer: trainers count from 0."""
        return -(-self.length // self.world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = list(range(self.length))
        if self.shuffle:
            order = generator("order", self.seed, self.epoch).permutation(self.length).tolist()
        for position in range(self.start, len(self)):
            yield self.epoch, order[(position * self.world_size + self.rank) % self.length]
