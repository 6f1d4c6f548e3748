"""The garbage collector as `docs/operating.md` recommends it: what lives is frozen."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["GC_THRESHOLDS", "rare_collections"]

GC_THRESHOLDS = (30_000, 20, 50)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect garbage as `docs/operating.md` recommends it, until left."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
