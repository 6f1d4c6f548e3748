"""arq allows redis-py below 6 only, so CI runs its example with the lowest dependencies."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("arq") else ["test_arq_worker.py"]
