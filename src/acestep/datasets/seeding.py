"""Random numbers by name: every draw is a function of what it is for, so nothing has to be remembered to repeat it."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*purpose: int | str) -> int:
    """A 63-bit seed from a run's seed and what the numbers are for: `derive_seed(seed, "crop", epoch, index)`."""
    digest = hashlib.sha256("/".join(map(str, purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def derive_share(*purpose: int | str) -> float:
    """A number from 0 to 1, each as likely."""
    return derive_seed(*purpose) / (1 << 63)


def derived_generator(*purpose: int | str) -> torch.Generator:
    """A generator on the CPU, so that the numbers do not depend on the device they are used on."""
    return torch.Generator().manual_seed(derive_seed(*purpose))
