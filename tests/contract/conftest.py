"""One Ray session for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
