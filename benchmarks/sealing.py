"""What it takes to seal a session key and to open it, beside AES-GCM from pycryptodome.

Batches are as large as those of logins. AES-256-GCM has to make a cipher for each key; it seals the
same 16 bytes under the same nonces, with the openId as associated data. Base64 is not part of it.
"""

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from Crypto.Cipher import AES

from mpauthx_async.tokens.format import new_nonce
from mpauthx_async.tokens.sealing import SessionKeySealer

from .measurement import (
    Benchmark,
    Figure,
    Outcome,
    Party,
    Settings,
    WrongAnswer,
    in_turn,
    ratio,
)
from .progress import Progress
from .sessions import APP_ID, APP_SECRET

__all__ = ["SEALING"]

_BATCH = 256  # keys: what logins are finished in

_SEAL = "SessionKeySealer, seal"
_OPEN = "SessionKeySealer, open"
_GCM_SEAL = "AES-256-GCM, seal"
_GCM_OPEN = "AES-256-GCM, open"


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    batches: int


_FULL = _Size(rounds=9, batches=200)
_QUICK = _Size(rounds=1, batches=10)


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL
    nonces = [new_nonce() for _ in range(_BATCH)]
    open_ids = [secrets.token_urlsafe(21) for _ in nonces]
    keys = [secrets.token_bytes(16) for _ in nonces]
    session_keys = [base64.b64encode(key).decode() for key in keys]
    sealer = SessionKeySealer(app_id=APP_ID, keys=[APP_SECRET])
    items = list(zip(nonces, open_ids, session_keys, strict=True))
    sealed = [sealed_key or "" for sealed_key in sealer.seal(items)]
    stored = list(zip(nonces, open_ids, sealed, strict=True))

    gcm = _Gcm(secrets.token_bytes(32), [base64.urlsafe_b64decode(nonce) for nonce in nonces])
    users = [open_id.encode() for open_id in open_ids]
    gcm_sealed = gcm.seal(keys, users)
    if sealer.open(stored) != session_keys or gcm.open(gcm_sealed, users) != keys:
        raise WrongAnswer("What was sealed did not open.")

    def party(name: str, work: Callable[[], object]) -> Party[float]:
        async def measure() -> float:
            started = perf_counter()
            for _ in range(size.batches):
                work()
            return (perf_counter() - started) / (size.batches * _BATCH) * 1e6

        return Party(name, measure)

    taken = await in_turn(
        [
            party(_SEAL, lambda: sealer.seal(items)),
            party(_GCM_SEAL, lambda: gcm.seal(keys, users)),
            party(_OPEN, lambda: sealer.open(stored)),
            party(_GCM_OPEN, lambda: gcm.open(gcm_sealed, users)),
        ],
        size.rounds,
        progress,
    )
    return Outcome(
        "sealing",
        f"batches of {_BATCH} session keys, {size.batches} a round, {size.rounds} rounds",
        taken,
        [
            Figure("µs to seal a key", taken[_SEAL], at_most=3),
            Figure("µs to open a key", taken[_OPEN], at_most=6),
            Figure("AES-GCM to ours, sealing", ratio(taken[_GCM_SEAL], taken[_SEAL]), at_least=10),
            Figure("AES-GCM to ours, opening", ratio(taken[_GCM_OPEN], taken[_OPEN]), at_least=5),
        ],
        unit="µs a key",
    )


class _Gcm:
    """AES-256-GCM, one key at a time."""

    def __init__(self, key: bytes, nonces: list[bytes]) -> None:
        self._key = key
        self._nonces = nonces

    def seal(self, keys: list[bytes], users: list[bytes]) -> list[tuple[bytes, bytes]]:
        return [
            self._cipher(nonce, user).encrypt_and_digest(key)
            for nonce, key, user in zip(self._nonces, keys, users, strict=True)
        ]

    def open(self, sealed: list[tuple[bytes, bytes]], users: list[bytes]) -> list[bytes]:
        return [
            self._cipher(nonce, user).decrypt_and_verify(*record)
            for nonce, record, user in zip(self._nonces, sealed, users, strict=True)
        ]

    def _cipher(self, nonce: bytes, user: bytes) -> Any:
        cipher: Any = AES.new(self._key, AES.MODE_GCM, nonce=nonce)
        cipher.update(user)
        return cipher


SEALING = Benchmark("sealing", "µs to seal and to open a session key, against AES-GCM", _run)
