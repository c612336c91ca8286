"""Running out of memory: how it is told apart from other errors, and decoding in tiles as what is tried then.

Torch says it with an exception of its own on a GPU, and on a CPU with a plain RuntimeError or, rarely, a MemoryError.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.modular_pipelines.modular_pipeline import ModularPipeline

_CPU_MESSAGE = "DefaultCPUAllocator: can't allocate memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or the one that it stands for, says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU_MESSAGE in str(error)


@contextmanager
def one_kind() -> Iterator[None]:
    """Let every way of running out of memory appear as a MemoryError, with what was half done given back."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        message = str(error).partition("\n")[0]
    else:
        return
    release()  # after the error is gone, and with it the frames that hold its tensors
    raise MemoryError(message)


def release() -> None:
    """Give memory that nobody holds any more back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def can_tile(pipe: ModularPipeline) -> bool:
    """Whether the pipeline's VAE decodes in tiles and does not do so already."""
    return getattr(getattr(pipe, "vae", None), "use_tiling", None) is False


@contextmanager
def tiled(pipe: ModularPipeline) -> Iterator[None]:
    """The VAE decodes in overlapping tiles, which takes a fraction of the memory and blends the seams."""
    pipe.vae.enable_tiling()
    try:
        yield
    finally:
        pipe.vae.disable_tiling()
