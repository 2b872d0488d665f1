"""What all tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The number of threads changes the last bits of a result; a study runs with one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_site_log() -> Iterator[None]:
    """A site opened in a test sends its log to that test's folder, which is gone when the next test logs."""
    logger = logging.getLogger("relay.site")
    before, propagate, raises = list(logger.handlers), logger.propagate, logging.raiseExceptions
    yield
    for handler in logger.handlers:
        if handler not in before:
            handler.close()
    logger.handlers, logger.propagate, logging.raiseExceptions = before, propagate, raises
