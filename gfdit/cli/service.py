"""The live system as the service that the HTTP side knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gfdit.api.service import Pending, Served, Value
from gfdit.cli.prepare import model_settings
from gfdit.core.work import Request
from gfdit.errors import InputError
from gfdit.live.system import LiveSystem
from gfdit.runtime.geometry import tokens_of

EMULATED = Served("", 1024, 1024, 28, multiple_of=16, min_side=64, max_side=4096, guided=False)


class LiveService:
    """See `gfdit.api.service.Service`. `folder`: the model's, for its limits."""

    def __init__(self, system: LiveSystem, folder: Path | None) -> None:
        self._system = system
        facts = system.facts
        if facts is None:
            self.models: Mapping[str, Served] = {name: replace(EMULATED, name=name) for name in system.models}
            return
        settings = model_settings(folder)

        def number(name: str, otherwise: int) -> int:
            value = facts.defaults.get(name, settings.get(name))
            return value if isinstance(value, int) else otherwise

        served = Served(
            facts.name,
            default_width=number("width", 1024),
            default_height=number("height", 1024),
            default_steps=number("num_inference_steps", 28),
            multiple_of=max(facts.token_height, facts.token_width, number("multiple_of", 1)),
            min_side=number("min_side", 1),
            max_side=number("max_side", 1 << 14),
            guided=facts.supports_cfg,
            defaults=facts.defaults,
        )
        self.models = {facts.name: served}

    @property
    def policy(self) -> str:
        return self._system.scheduler.policy.name

    @property
    def accepting(self) -> bool:
        return self._system.fleet.intake.open

    def tokens(self, model: str, width: int, height: int) -> int:
        facts = self._system.facts
        tokens = tokens_of(model, height, width, 1) if facts is None else facts.tokens(height, width)
        if tokens is None:
            raise InputError(f"the geometry of model `{model}` is not known, so no size can be turned into tokens")
        return tokens

    def submit(self, request: Request, inputs: Mapping[str, Value]) -> Pending:
        """Emulated workers read the request itself, not a pipeline's inputs."""
        return self._system.submit(request, None if self._system.facts is None else inputs)

    def cancel(self, request_id: str) -> None:
        self._system.cancel(request_id)
