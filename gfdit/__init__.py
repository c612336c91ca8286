"""gfdit: GPU parallelism for Diffusion Transformers as something to schedule."""

__version__ = "0.1.0"
