"""The garbage collector as the README recommends it: what lives is frozen, collections are rare."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["GC_THRESHOLDS", "rare_collections"]

GC_THRESHOLDS = (30_000, 20, 50)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect garbage as the README recommends it for servers, until left."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
