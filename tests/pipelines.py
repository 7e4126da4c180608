"""Tiny pipelines of random networks, built from config: nothing is downloaded."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed", exc_type=ImportError)
torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
transformers = pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)

WIDTH = 32  # of text embeddings
_SMALL_UNET = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "sample_size": 8,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}


def seeded(make: Any) -> Any:
    """``make(seed)`` in eval mode, with the random weights of this seed; torch's own state is left alone."""

    @functools.wraps(make)
    def made(seed: int = 0, **settings: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make(**settings).eval()

    return made


@functools.cache
def tokenizer() -> Any:
    """Of bytes, without merges; those that cannot be printed have the names that CLIP gives them."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = (chr(256 + i) for i in range(256))
    characters = [chr(b) if b in printable else next(hidden) for b in range(256)]
    entries = [*characters, *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    folder = Path(tempfile.mkdtemp())
    (folder / "vocab.json").write_text(json.dumps({entry: i for i, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77, pad_token="<|endoftext|>"
    )


@seeded
def text_encoder(projected: bool = False) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=514,
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=WIDTH,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(config)


@seeded
def vae(latent_channels: int = 4, **settings: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=32,
        **settings,
    )


@seeded
def unet(**settings: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **{**_SMALL_UNET, "cross_attention_dim": WIDTH, **settings},
    )


@seeded
def unet_xl() -> Any:
    return unet.__wrapped__(
        cross_attention_dim=2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 1),
    )


@seeded
def unet_ddpm() -> Any:
    return diffusers.UNet2DModel(
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **_SMALL_UNET,
    )


@seeded
def transformer_sd3() -> Any:
    return diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
        out_channels=4,
    )


@seeded
def transformer_flux() -> Any:
    return diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    )


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd(network: Any = None, seed: int = 0, scheduler: Any = None) -> Any:
    scheduler = scheduler or diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return quiet(
        diffusers.StableDiffusionPipeline(
            vae=vae(),
            text_encoder=text_encoder(seed),
            tokenizer=tokenizer(),
            unet=network or unet(seed),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def sdxl(network: Any = None, seed: int = 0) -> Any:
    return quiet(
        diffusers.StableDiffusionXLPipeline(
            vae=vae(),
            text_encoder=text_encoder(seed),
            text_encoder_2=text_encoder(seed + 100, projected=True),
            tokenizer=tokenizer(),
            tokenizer_2=tokenizer(),
            unet=network or unet_xl(seed),
            scheduler=diffusers.EulerDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
            ),
            add_watermarker=False,
        )
    )


def ddpm(network: Any = None, seed: int = 0) -> Any:
    return quiet(
        diffusers.DDPMPipeline(unet=network or unet_ddpm(seed), scheduler=diffusers.DDPMScheduler(clip_sample=False))
    )


def sd3(network: Any = None, seed: int = 0) -> Any:
    return quiet(
        diffusers.StableDiffusion3Pipeline(
            transformer=network or transformer_sd3(seed),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
            vae=vae(shift_factor=0.0609, scaling_factor=1.5035),
            text_encoder=text_encoder(seed, projected=True),
            tokenizer=tokenizer(),
            text_encoder_2=text_encoder(seed + 100, projected=True),
            tokenizer_2=tokenizer(),
            text_encoder_3=None,
            tokenizer_3=None,
        )
    )


def flux(network: Any = None, seed: int = 0) -> Any:
    return quiet(
        diffusers.FluxPipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
            vae=vae(latent_channels=1, shift_factor=0.0609, scaling_factor=1.5035),
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
            transformer=network or transformer_flux(seed),
        )
    )


def flux_prompt(seed: int = 0, n: int = 1) -> dict[str, Any]:
    """What stands for a text: its embeddings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {"prompt_embeds": torch.randn(n, 7, WIDTH), "pooled_prompt_embeds": torch.randn(n, WIDTH)}


CALLS: dict[str, Any] = {
    "sd": {"prompt": "a cat", "num_inference_steps": 3},
    "sdxl": {"prompt": "a cat", "num_inference_steps": 3},
    "ddpm": {"num_inference_steps": 3},
    "sd3": {"prompt": "a cat", "num_inference_steps": 3, "height": 16, "width": 16},
    "flux": {**flux_prompt(), "num_inference_steps": 3, "height": 16, "width": 16},
}
MAKE = {"sd": sd, "sdxl": sdxl, "ddpm": ddpm, "sd3": sd3, "flux": flux}
NETWORKS = {"sd": unet, "sdxl": unet_xl, "ddpm": unet_ddpm, "sd3": transformer_sd3, "flux": transformer_flux}


def run(pipe: Any, **settings: Any) -> Any:
    """The images of the call, or latents where there are, as a tensor."""
    family = next(name for name, make in MAKE.items() if isinstance(pipe, _KINDS[name]))
    output = "np" if family == "ddpm" else "latent"
    call = {**CALLS[family], "output_type": output, "generator": torch.Generator().manual_seed(7), **settings}
    return torch.as_tensor(pipe(**call).images)


_KINDS = {
    "sd": diffusers.StableDiffusionPipeline,
    "sdxl": diffusers.StableDiffusionXLPipeline,
    "ddpm": diffusers.DDPMPipeline,
    "sd3": diffusers.StableDiffusion3Pipeline,
    "flux": diffusers.FluxPipeline,
}
