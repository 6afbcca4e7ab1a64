"""The data on which the trainings of these tests run."""

import pytest

from gtcrn.data.speech import SpeechData, vctk_demand


@pytest.fixture
def mini_data(recordings, tmp_path):
    """Return a function that makes data: five real pairs to train on, three steps an epoch, and one to validate."""

    def make(num_workers: int = 0, worker_timeout: float = 120.0) -> SpeechData:
        data = vctk_demand(
            str(recordings / "vctk_demand_mini"),
            train_sets=["28spk"],
            validation_speakers=[],
            validation_files=["p287_006"],
            test="validation",
            suffix=None,
            sample_rate=16000,
            segment_seconds=0.3,
            batch_size=2,
            num_workers=num_workers,
            worker_timeout=worker_timeout,
            seed=7,
            cache_dir=tmp_path / "cache",
        )
        data.setup(("train", "validation"))
        return data

    return make
