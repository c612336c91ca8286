"""The optimizer of the embedded model's training: Muon for matrices, Adam for the rest, and an average of weights.

One class holds all of it so that its whole state is a flat dictionary of tensors, saved without pickling.
Muon: Jordan et al., 2024; the update's scale follows Liu et al., 2025 (0.2 sqrt(larger side)), which makes its
learning rate comparable with Adam's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

MUON_MOMENTUM = 0.95
ADAM_BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.01


def orthogonalize(stack: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly, to a batch x rows x columns stack: five Newton-Schulz steps."""
    x = stack.bfloat16()
    tall = x.size(1) > x.size(2)
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).to(stack.dtype)


class Optimizer:
    """Updates named parameters from their gradients and keeps an exponential average of them."""

    def __init__(self, parameters: dict[str, Parameter], is_matrix: Callable[[str, Parameter], bool]) -> None:
        self.parameters = parameters
        self.matrices = {name for name, value in parameters.items() if is_matrix(name, value)}
        self.average = {name: value.detach().clone() for name, value in parameters.items()}
        self.first = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.second = {name: torch.zeros_like(v) for name, v in parameters.items() if name not in self.matrices}
        self.steps = 0

    @torch.no_grad()
    def step(self, muon_rate: float, adam_rate: float, average_decay: float, clip: float = 1.0) -> float:
        """One update; gradients are clipped to a total norm, then cleared. Returns the norm before clipping."""
        self.steps += 1
        norm = float(torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), clip))
        self._muon(muon_rate)
        self._adam(adam_rate)
        decay = min(average_decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.parameters.items():
            value.grad = None
            self.average[name].lerp_(value, 1 - decay)
        return norm

    def _muon(self, rate: float) -> None:
        same_shape: dict[torch.Size, list[str]] = defaultdict(list)
        for name in sorted(self.matrices):
            same_shape[self.parameters[name].shape].append(name)
        for shape, names in same_shape.items():
            updates = []
            for name in names:
                gradient = self.parameters[name].grad
                assert gradient is not None, f"{name}: no gradient"
                self.first[name].lerp_(gradient, 1 - MUON_MOMENTUM)
                updates.append(gradient.lerp(self.first[name], MUON_MOMENTUM))
            scale = 0.2 * max(shape) ** 0.5
            for name, update in zip(names, orthogonalize(torch.stack(updates)), strict=True):
                self.parameters[name].mul_(1 - rate * WEIGHT_DECAY).add_(update, alpha=-rate * scale)

    def _adam(self, rate: float) -> None:
        for name, second in self.second.items():
            value, first = self.parameters[name], self.first[name]
            if value.grad is None:  # a text encoder's parameter that this batch did not reach
                continue
            first.lerp_(value.grad, 1 - ADAM_BETAS[0])
            second.lerp_(value.grad.square(), 1 - ADAM_BETAS[1])
            bias = [1 - beta**self.steps for beta in ADAM_BETAS]
            value.addcdiv_(first / bias[0], (second / bias[1]).sqrt() + 1e-8, value=-rate)

    def _groups(self) -> dict[str, Mapping[str, Tensor]]:
        return {"value": self.parameters, "average": self.average, "first": self.first, "second": self.second}

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on, parameters included, as one flat dictionary."""
        flat = {f"{group}/{name}": t.detach() for group, held in self._groups().items() for name, t in held.items()}
        return flat | {"steps": torch.tensor(self.steps)}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore what state() returned. Raises KeyError when a tensor is missing."""
        for group, held in self._groups().items():
            for name, tensor in held.items():
                tensor.copy_(state[f"{group}/{name}"])
        self.steps = int(state["steps"])
