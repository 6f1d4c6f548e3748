"""Whether the time that sealed data takes to be refused tells right padding from wrong.

AES-CBC does not authenticate, so an attacker can change the last block of data that somebody else
sealed. If refusing wrong padding takes another time than refusing right padding, the attacker
learns the plaintext byte by byte (Vaudenay, "Security Flaws Induced by CBC Padding", 2002).

The attacker times many refusals, in this process, where nothing but the decryption itself makes
noise. The data is as long as decrypt_user_data takes, because then the difference is largest. In
half of it the padding is right, in the other half one byte of it is changed; the order is random.
All of it is refused, as it is another app's. The attacker learns from the first half of the timings
where to draw the line and on which side of it right padding lies, and judges the second half by
that: one timing at a time, and by the median of a hundred. 0.5 is a guess, 1 is always right.

The second party attacks the usual order, which unpads before it parses. It shows that the attack
works where there is something to see.
"""

import base64
import gc
import json
import random
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter_ns

from Crypto.Cipher import AES
from Crypto.Util.Padding import pad, unpad

from mpauthx_async import DecryptionError, decrypt_user_data

from .measurement import Benchmark, Figure, Outcome, Party, Settings, Spread, WrongAnswer, turns
from .progress import Progress

__all__ = ["PADDING", "Attack", "attack"]

_CHARACTERS = 16_384
_SAMPLES = 64  # of each class, so that no single one stands for all
_AT_ONCE = 100
_OURS = "decrypt_user_data"
_USUAL = "padding checked before parsing"
_APP_ID = "wx0000000000000000"
_OTHER_APP_ID = "wx1111111111111111"
_BLOCK = AES.block_size


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    timings: int


_FULL = _Size(rounds=9, timings=20_000)
_QUICK = _Size(rounds=1, timings=2_000)


@dataclass(frozen=True, slots=True)
class Attack:
    """What timing found.

    Attributes:
        apart: the medians of the two classes are this far apart, in microseconds.
        noise: the width of the middle half of one class, in microseconds.
        singly: how often the attacker is right by one timing.
        by_hundreds: how often by the median of a hundred.
    """

    apart: float
    noise: float
    singly: float
    by_hundreds: float


def attack(times: Sequence[tuple[bool, float]]) -> Attack:
    """Learn from the first half of the timings, and judge the second half.

    Args:
        times: whether the padding was right, and how long the refusal took, in nanoseconds.
    """
    half = len(times) // 2
    right, wrong = _classes(times[:half])
    line, is_below = (median(right) + median(wrong)) / 2, median(right) < median(wrong)

    def hits(judged: tuple[Sequence[float], Sequence[float]]) -> float:
        shares = [
            sum((value < line) is below for value in values) / len(values)
            for values, below in zip(judged, (is_below, not is_below), strict=True)
        ]
        return sum(shares) / len(shares)

    judged_right, judged_wrong = _classes(times[half:])
    low, _, high = quantiles([*right, *judged_right])
    return Attack(
        abs(median([*right, *judged_right]) - median([*wrong, *judged_wrong])) / 1000,
        (high - low) / 1000,
        hits((judged_right, judged_wrong)),
        hits((_medians(judged_right), _medians(judged_wrong))),
    )


def _classes(times: Sequence[tuple[bool, float]]) -> tuple[list[float], list[float]]:
    right = [value for is_right, value in times if is_right]
    return right, [value for is_right, value in times if not is_right]


def _medians(values: Sequence[float]) -> list[float]:
    return [
        median(values[start : start + _AT_ONCE])
        for start in range(0, len(values) - _AT_ONCE + 1, _AT_ONCE)
    ]


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL
    session_key, iv = (base64.b64encode(secrets.token_bytes(_BLOCK)).decode() for _ in range(2))
    sealed = _sealed(session_key, iv)

    async def measure(decrypt: Callable[[str, str, str, str], object]) -> Attack:
        return attack(_times(decrypt, session_key, iv, sealed, size.timings))

    found = await turns(
        [
            Party(_OURS, lambda: measure(decrypt_user_data)),
            Party(_USUAL, lambda: measure(_decrypt_in_usual_order)),
        ],
        size.rounds,
        progress,
    )

    def spread(party: str, name: str) -> Spread:
        return Spread(tuple(getattr(attack, name) for attack in found[party]))

    return Outcome(
        "padding",
        f"{_CHARACTERS:,} characters, {size.timings:,} timings a round, {size.rounds} rounds",
        {name: spread(name, "apart") for name in found},
        [
            Figure("told apart by one timing (0.5: a guess)", spread(_OURS, "singly"), at_most=0.6),
            Figure("by the median of 100", spread(_OURS, "by_hundreds"), at_most=0.7),
            Figure("noise: the middle half of the timings, µs", spread(_OURS, "noise")),
            Figure(f"{_USUAL}: by one timing", spread(_USUAL, "singly")),
            Figure(f"{_USUAL}: by the median of 100", spread(_USUAL, "by_hundreds")),
        ],
        unit="µs between the medians of right and wrong padding",
    )


def _sealed(session_key: str, iv: str) -> dict[bool, list[str]]:
    """Another app's data, with right padding and with one byte of it changed."""
    payload = {"nickNames": [], "watermark": {"appid": _OTHER_APP_ID, "timestamp": 1_477_314_187}}
    length = _CHARACTERS // 4 * 3 - _BLOCK
    bare = len(json.dumps(payload))
    payload["nickNames"] = ["Band"] * ((length - bare) // len('"Band", '))
    plaintext = json.dumps(payload).encode()
    sealed: dict[bool, list[str]] = {True: [], False: []}
    for _ in range(_SAMPLES):
        size = secrets.randbelow(_BLOCK) + 1
        right = plaintext[:-1] + b" " * ((-len(plaintext) - size) % _BLOCK) + b"}"
        right = pad(right, _BLOCK)
        wrong = bytearray(right)
        wrong[-1 - secrets.randbelow(size)] ^= secrets.randbelow(255) + 1
        for is_right, text in ((True, right), (False, bytes(wrong))):
            cipher = AES.new(base64.b64decode(session_key), AES.MODE_CBC, base64.b64decode(iv))
            sealed[is_right].append(base64.b64encode(cipher.encrypt(text)).decode())
    return sealed


def _times(
    decrypt: Callable[[str, str, str, str], object],
    session_key: str,
    iv: str,
    sealed: dict[bool, list[str]],
    count: int,
) -> list[tuple[bool, float]]:
    times: list[tuple[bool, float]] = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(count):
            is_right = random.random() < 0.5
            data = random.choice(sealed[is_right])
            started = perf_counter_ns()
            with suppress(DecryptionError):
                decrypt(session_key, data, iv, _APP_ID)
                raise WrongAnswer("Another app's data was not refused.")
            times.append((is_right, perf_counter_ns() - started))
    finally:
        gc.enable()
    return times


def _decrypt_in_usual_order(session_key: str, encrypted_data: str, iv: str, app_id: str) -> object:
    cipher = AES.new(base64.b64decode(session_key), AES.MODE_CBC, base64.b64decode(iv))
    plaintext = cipher.decrypt(base64.b64decode(encrypted_data))
    try:
        payload = json.loads(unpad(plaintext, _BLOCK))
    except ValueError:
        payload = None
    if payload is None or payload["watermark"]["appid"] != app_id:
        raise DecryptionError("The user data does not decrypt.")
    return payload


PADDING = Benchmark("padding", "whether timing tells right padding of sealed data from wrong", _run)
