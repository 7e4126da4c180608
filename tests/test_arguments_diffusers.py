"""Odd arguments of `scorefusion.diffusers`, on tiny pipelines."""

import numpy as np
import pytest
from arguments import BIG, MARKS, SKIP, UNKNOWN, anything, choice, flag, fuzz, many, missing, only, real, seed, whole
from pipelines import ddpm, diffusers, sd, torch, unet, unet_ddpm

import scorefusion as sf

pytestmark = [*MARKS, pytest.mark.usefixtures("one_torch_thread_in_a_folder")]

NETWORKS = [unet_ddpm(0), unet_ddpm(1)]
PLAIN = [ddpm(network) for network in NETWORKS]  # without texts
FUSED = ddpm(sf.diffusers.fuse(NETWORKS, [0.5, 0.5]))
TEXTS = sd(sf.diffusers.fuse([unet(0), unet(1)], [0.5, 0.5]))
IMAGES = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype("float32")
THESE = [
    PLAIN[0], FUSED, TEXTS, NETWORKS[0], FUSED.unet, [PLAIN[0], TEXTS], [PLAIN[0], None], [NETWORKS[0], unet(0)],
    torch.nn.Linear(1, 1), diffusers.DDPMScheduler(), torch.ones(2), torch.ones(2, 3, 8, 8),
    np.ones((2, 8, 8, 3), "uint8"),
    np.ones((2, 4, 4, 3), "float32"), np.ones((2, 8, 8), "float32"), np.full((2, 8, 8, 3), np.nan, "float32"),
    [torch.ones(2, 3, 8, 8)] * 2, ["a cat", "a dog"], ["a"] * 3, [["a", "b"], ["c"]], [["a"], ["b"]], [""] * 2,
]  # fmt: skip


def called(**given):
    """A fused network, called once."""
    network = sf.diffusers.fuse(**{"branches": NETWORKS, "weights": [0.5, 0.5], **given})
    try:
        return network(torch.zeros(1, 3, 8, 8), torch.tensor([5]))
    finally:
        network.offload(False)


def weights_of(**given):
    network = FUSED.unet
    try:
        for name, value in given.items():
            setattr(network, name, value)
    finally:
        network.weights, network.guidance = [0.5, 0.5], None


def superposed(**given):
    return sf.diffusers.superpose(
        **{"pipe": FUSED, "prompts": "", "steps": 1, "guidance_scale": None, "output_type": "latent", **given}
    )


def one_step(value):
    """Of these networks each takes its time."""
    legal = whole(1)(value)
    return SKIP if legal is True else legal


FUNCTIONS = {
    "diffusers.fuse": (
        called,
        {
            "branches": anything,
            "weights": many,
            "guidance": many,
            "offload": lambda v: UNKNOWN if flag(v) or isinstance(v, str) else False,
        },
    ),
    "diffusers.FusedModel": (
        lambda **a: sf.diffusers.FusedModel(**{"networks": NETWORKS, **a}),
        {"networks": anything, "branches": many, "weights": many, "guidance": many},
    ),
    "diffusers.FusedModel, set": (weights_of, {"weights": many, "guidance": many}),
    "diffusers.FusedModel.offload": (
        lambda where: sf.diffusers.fuse(NETWORKS, [0.5, 0.5]).offload(where).offload(False),
        {"where": lambda v: UNKNOWN if flag(v) or isinstance(v, str) else False},
    ),
    "diffusers.FusedModel.branch": (
        lambda i: FUSED.unet.branch(i, torch.zeros(1, 3, 8, 8), torch.tensor([5])),
        {"i": whole(0, 2, 2)},
    ),
    "diffusers.encode_prompts": (
        lambda **a: sf.diffusers.encode_prompts(**{"pipelines": TEXTS, "prompts": "a cat", **a}),
        {
            "pipelines": anything,
            "prompts": anything,
            "negative_prompt": anything,
            "num_images_per_prompt": whole(1),
        },
    ),
    "diffusers.fit": (
        lambda **a: sf.diffusers.fit(**{"pipelines": FUSED, "images": IMAGES, "draws": 2, "progress": False, **a}),
        {
            "pipelines": anything,
            "images": anything,
            "prompt": anything,
            "batch_size": whole(1, 2**70),
            "first_datum": whole(0, 2**62, 2**63),
            "seed": seed(),
        },
    ),
    "diffusers.superpose": (
        superposed,
        {
            "pipe": anything,
            "prompts": anything,
            "mode": choice("or", "and", "mean"),
            "steps": one_step,
            "seed": seed(),
            "guidance_scale": lambda v: UNKNOWN if callable(v) else real(-BIG, BIG, none=True)(v),
            "negative_prompt": only(str),
            "num_images": whole(1, 3),
            "height": lambda v: UNKNOWN if v is None or whole(1, 16)(v) is True else SKIP if whole(1)(v) else False,
            "width": lambda v: UNKNOWN if v is None or whole(1, 16)(v) is True else SKIP if whole(1)(v) else False,
            "output_type": choice("pil", "np", "pt", "latent"),
            "progress": lambda v: SKIP if flag(v) else False,
        },
    ),
}

test_odd_arguments_are_taken_rightly_or_named = fuzz(FUNCTIONS, THESE, short=2)

OTHERS = {"diffusers.FusedModel.cache_context": "called by pipelines"}


def test_every_public_function_and_argument_has_a_row():
    found = missing(FUNCTIONS, sf.diffusers, "diffusers.")
    assert sorted({each for each in found if each.partition("(")[0] not in OTHERS}) == []
