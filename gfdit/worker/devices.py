"""What this machine can compute on. Imports torch only where a GPU driver is loaded."""

from __future__ import annotations

from pathlib import Path

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def cuda_devices() -> int:
    """GPUs that torch can use; 0 without a driver, or with a torch that was built without CUDA."""
    if not NVIDIA_DRIVER.exists():
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cuda_name() -> str:
    """What the first GPU is called."""
    import torch

    return str(torch.cuda.get_device_name(0))
