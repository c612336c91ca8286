"""Flux blocks with classifier-free guidance, which diffusers' own modular Flux lacks.

`FluxPipeline(true_cfg_scale=...)` runs the transformer on the prompt and on a negative prompt; the modular Flux blocks
run it on the prompt only. These blocks add the second branch the way other families' blocks have it, through a guider
component, so that guidance is configured, carried and divided over ranks as it is there. They give the ordinary
pipeline's pictures bit for bit; with the guider at its default scale of 1 they compute what the stock blocks compute.
One difference: a missing negative prompt means the empty one.

A model family's blocks and no more: imports nothing of gfdit.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.modular_pipelines.flux.denoise import FluxDenoiseLoopWrapper, FluxLoopAfterDenoiser, FluxLoopDenoiser
from diffusers.modular_pipelines.flux.encoders import FluxTextEncoderStep
from diffusers.modular_pipelines.flux.modular_blocks_flux import (
    FluxAutoBeforeDenoiseStep,
    FluxAutoInputStep,
    FluxAutoVaeEncoderStep,
    FluxDecodeStep,
    FluxUnpackLatentsStep,
)
from diffusers.modular_pipelines.flux.modular_pipeline import FluxModularPipeline
from diffusers.modular_pipelines.modular_pipeline import (
    BlockState,
    ModularPipelineBlocks,
    PipelineState,
    SequentialPipelineBlocks,
)
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, InputParam, OutputParam

_GUIDER = ComponentSpec(
    "guider",
    ClassifierFreeGuidance,
    config=FrozenDict({"guidance_scale": 1.0}),
    default_creation_method="from_config",
)
_NEGATIVE = ("negative_prompt_embeds", "negative_pooled_prompt_embeds")


class GuidedFluxTextEncoderStep(FluxTextEncoderStep):
    """Encodes the prompt, and the negative prompt when guidance is on."""

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [*super().expected_components, _GUIDER]

    @property
    def inputs(self) -> list[InputParam]:
        return [*super().inputs, InputParam("negative_prompt", type_hint=str)]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [*super().intermediate_outputs, *(OutputParam(name, type_hint=torch.Tensor) for name in _NEGATIVE)]

    @torch.no_grad()
    def __call__(
        self, components: FluxModularPipeline, state: PipelineState
    ) -> tuple[FluxModularPipeline, PipelineState]:
        block_state = self.get_block_state(state)
        self.check_inputs(block_state)
        attention = block_state.joint_attention_kwargs or {}
        shared = {"max_sequence_length": block_state.max_sequence_length, "lora_scale": attention.get("scale")}
        prompt = block_state.prompt
        block_state.prompt_embeds, block_state.pooled_prompt_embeds = self.encode_prompt(
            components, prompt=prompt, prompt_2=block_state.prompt_2, **shared
        )
        block_state.negative_prompt_embeds = block_state.negative_pooled_prompt_embeds = None
        if components.guider.num_conditions > 1:
            negative = block_state.negative_prompt or ""
            if isinstance(prompt, list) and isinstance(negative, str):
                negative = [negative] * len(prompt)
            block_state.negative_prompt_embeds, block_state.negative_pooled_prompt_embeds = self.encode_prompt(
                components, prompt=negative, prompt_2=None, **shared
            )
        self.set_block_state(state, block_state)
        return components, state


class GuidedFluxNegativeInputStep(ModularPipelineBlocks):
    """Repeats the negative embeddings for several pictures of a prompt, as FluxTextInputStep does the others."""

    model_name = "flux"

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("num_images_per_prompt", default=1), *(InputParam(name) for name in _NEGATIVE)]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam(name, type_hint=torch.Tensor) for name in _NEGATIVE]

    @torch.no_grad()
    def __call__(
        self, components: FluxModularPipeline, state: PipelineState
    ) -> tuple[FluxModularPipeline, PipelineState]:
        block_state = self.get_block_state(state)
        for name in _NEGATIVE:
            if block_state[name] is not None:
                block_state[name] = block_state[name].repeat_interleave(block_state.num_images_per_prompt, dim=0)
        self.set_block_state(state, block_state)
        return components, state


class GuidedFluxLoopDenoiser(FluxLoopDenoiser):
    """One prediction of the transformer for each branch of the guider, combined by it."""

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [*super().expected_components, _GUIDER]

    @property
    def inputs(self) -> list[InputParam]:
        return [*super().inputs, *(InputParam(name) for name in _NEGATIVE), InputParam("num_inference_steps")]

    @torch.no_grad()
    def __call__(
        self, components: FluxModularPipeline, block_state: BlockState, i: int, t: torch.Tensor
    ) -> tuple[FluxModularPipeline, BlockState]:
        guider = components.guider
        conditions = {
            "encoder_hidden_states": (block_state.prompt_embeds, block_state.negative_prompt_embeds),
            "pooled_projections": (block_state.pooled_prompt_embeds, block_state.negative_pooled_prompt_embeds),
        }
        guider.set_state(step=i, num_inference_steps=block_state.num_inference_steps, timestep=t)
        branches = guider.prepare_inputs(conditions)
        for branch in branches:
            guider.prepare_models(components.transformer)
            branch.noise_pred = components.transformer(
                hidden_states=block_state.latents,
                timestep=t.flatten() / 1000,
                guidance=block_state.guidance,
                joint_attention_kwargs=block_state.joint_attention_kwargs,
                txt_ids=block_state.txt_ids,
                img_ids=block_state.img_ids,
                return_dict=False,
                **{name: branch[name] for name in conditions},
            )[0]
            guider.cleanup_models(components.transformer)
        block_state.noise_pred = guider(branches)[0]
        return components, block_state


class GuidedFluxDenoiseStep(FluxDenoiseLoopWrapper):
    """The stock loop around the guided denoiser."""

    block_classes = (GuidedFluxLoopDenoiser, FluxLoopAfterDenoiser)
    block_names = ("denoiser", "after_denoiser")


class GuidedFluxCoreDenoiseStep(SequentialPipelineBlocks):
    """Flux's core step with the negative branch."""

    model_name = "flux"
    block_classes = (
        FluxAutoInputStep,
        GuidedFluxNegativeInputStep,
        FluxAutoBeforeDenoiseStep,
        GuidedFluxDenoiseStep,
        FluxUnpackLatentsStep,
    )
    block_names = ("input", "negative_input", "before_denoise", "denoise", "unpack_latents")

    @property
    def outputs(self) -> list[OutputParam]:
        return [OutputParam.template("latents")]


class GuidedFluxBlocks(SequentialPipelineBlocks):
    """FluxAutoBlocks (text to image, image to image) with guidance."""

    model_name = "flux"
    block_classes = (GuidedFluxTextEncoderStep, FluxAutoVaeEncoderStep, GuidedFluxCoreDenoiseStep, FluxDecodeStep)
    block_names = ("text_encoder", "vae_encoder", "denoise", "decode")
    _workflow_map: ClassVar = {"text2image": {"prompt": True}, "image2image": {"image": True, "prompt": True}}

    @property
    def outputs(self) -> list[OutputParam]:
        return [OutputParam.template("images")]
