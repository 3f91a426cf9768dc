"""Where tensors live."""

from __future__ import annotations

import torch

from mads4.errors import UserError


def device(name: str, threads: int | None = None) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` … stands for, and set CPU threads.

    Raises:
        UserError: a device that PyTorch does not find here.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(name)
    available = {
        "cpu": True,
        "cuda": (chosen.index or 0) < torch.cuda.device_count(),
    }
    if not available[chosen.type]:
        found = [kind for kind, here in available.items() if here]
        raise UserError(
            f"device: '{name}' is not available here; PyTorch {torch.__version__} finds "
            f"{', '.join(found)}. Use device=auto."
        )
    return chosen
