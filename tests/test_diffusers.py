"""Fused pipelines against the same mixtures written by hand, on tiny random networks."""

from __future__ import annotations

import contextlib
import copy
import gc
import math
import weakref

import numpy as np
import pipelines
import pytest
import tolerance
from pipelines import MAKE, NETWORKS, diffusers, run, torch

import scorefusion as sf
from scorefusion.schedule import Discrete

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers' own

FAMILIES = list(MAKE)
LAMBDA = [0.3, 0.7]


def exact(u, c):
    """Σ_j c_j u_j as `combine` rounds it: a product, then fused multiply-adds, in float32."""
    c = [float(np.float32(c_j)) for c_j in c]
    y = (c[0] * u[0].double()).float()
    for u_j, c_j in zip(u[1:], c[1:], strict=True):
        y = (c_j * u_j.double() + y.double()).float()
    return y


class ByHand(torch.nn.Module):
    """What a user would write: every network is called, and the outputs added up."""

    def __init__(self, networks, weights):
        super().__init__()
        self.networks, self.weights = torch.nn.ModuleList(networks), weights
        self.config, self.calls = networks[0].config, 0

    dtype = property(lambda self: self.networks[0].dtype)
    device = property(lambda self: self.networks[0].device)
    add_embedding = property(lambda self: self.networks[0].add_embedding)

    @contextlib.contextmanager
    def cache_context(self, name):
        yield

    def forward(self, *args, **kwargs):
        self.calls += 1
        out = [network(*args, **{**kwargs, "return_dict": False})[0] for network in self.networks]
        y = exact(out, self.weights)
        return (y,) if kwargs.get("return_dict") is False else diffusers.models.unets.unet_2d.UNet2DOutput(sample=y)


def two(family):
    return [NETWORKS[family](0), NETWORKS[family](1)]


def network_of(pipe):
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


# --------------------------------------------------------------------------------------------------- whole pipelines


@pytest.mark.parametrize("family", FAMILIES)
def test_two_equal_branches_are_the_single_model(family):
    network = NETWORKS[family]()
    single = run(MAKE[family](network))
    for other in (copy.deepcopy(network), network):
        fused = sf.diffusers.fuse([network, other], [0.5, 0.5])
        assert torch.equal(run(MAKE[family](fused)), single)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pipeline_is_the_mixture_by_hand(family):
    networks = two(family)
    by_hand = run(MAKE[family](ByHand(networks, LAMBDA)))
    pipe = MAKE[family]()
    pipes = [MAKE[family](network) for network in networks]
    name = "unet" if hasattr(pipe, "unet") else "transformer"
    setattr(pipe, name, sf.diffusers.fuse(pipes, LAMBDA))
    assert torch.equal(run(pipe), by_hand)
    assert not torch.equal(by_hand, run(pipes[0]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_a_call_is_as_near_to_the_truth_as_rounding_allows(dtype):
    networks = [network.to(getattr(torch, dtype)) for network in two("sd")]
    x, text = torch.randn(3, 4, 8, 8, dtype=networks[0].dtype), torch.randn(3, 5, 32, dtype=networks[0].dtype)
    fused = sf.diffusers.fuse(networks, [1.7, -0.7])
    assert fused.dtype == networks[0].dtype
    with torch.no_grad():
        y = fused(x, 3, text).sample
        out = [network(x, 3, text, return_dict=False)[0] for network in networks]
    assert y.dtype == x.dtype
    u = [o.double().numpy() for o in out]
    error = tolerance.combine(u, [1.7, -0.7], "float64" if dtype == "float64" else "float32", dtype)
    truth = sf.reference.combine(u, [1.7, -0.7])
    tolerance.assert_within(y.double().numpy().reshape(3, -1), truth.reshape(3, -1), error)


def test_it_returns_what_the_networks_return():
    network = NETWORKS["sd"]()
    fused = sf.diffusers.fuse([network, NETWORKS["sd"](1)], LAMBDA)
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 32)
    assert type(fused(x, 3, text)) is type(network(x, 3, text))
    assert isinstance(fused(x, 3, text, return_dict=False), tuple)
    assert torch.equal(fused(x, 3, text).sample, fused(x, 3, encoder_hidden_states=text, return_dict=False)[0])


def test_gradients_reach_networks_and_weights():
    networks, weights = two("ddpm"), torch.tensor(LAMBDA, requires_grad=True)
    x, t = torch.randn(1, 3, 8, 8), torch.tensor(3)
    fused = sf.diffusers.fuse(networks, weights)
    found = torch.autograd.grad(fused(x, t).sample.square().sum(), [*fused.parameters(), weights])
    out = [network(x, t).sample for network in networks]
    y = weights[0] * out[0] + weights[1] * out[1]
    expected = torch.autograd.grad(y.square().sum(), [*fused.parameters(), weights])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(y.square().sum()))
    assert fused.weights is weights
    fused.weights = torch.nn.Parameter(torch.tensor(LAMBDA))
    assert len(list(fused.parameters())) == len(found)
    assert len(torch.autograd.grad(fused(x, t).sample.sum(), [fused.weights])) == 1


# ----------------------------------------------------------------------------------------------------------- weights


class Recorder(torch.nn.Module):
    """A network that counts its calls and returns a number."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, value, channels=4):
        super().__init__()
        self.value, self.calls = value, 0
        self.config = {"in_channels": channels}

    def forward(self, x, t, **kwargs):
        self.calls += 1
        return (torch.full_like(x, self.value),)


def test_weights_can_be_set_at_any_time():
    fused = sf.diffusers.fuse([Recorder(1.0), Recorder(2.0), Recorder(4.0)], [1, 1, 1])
    x = torch.zeros(2, 4, 3, 3)

    def value(t=5):
        return fused(x, torch.tensor(t))[0].unique().tolist()

    assert value() == [7.0]
    fused.weights = torch.tensor([0.5, 0.25, 0.0])
    assert value() == [1.0]
    np.testing.assert_array_equal(fused.weights, [0.5, 0.25, 0])
    fused.weights = lambda t: [t / 10, 0, 0]
    assert value(5) == [0.5]
    assert value([5, 5]) == [0.5]
    fused.weights = lambda t: np.stack([t, 0 * t, 0 * t], -1)
    assert fused(x, torch.tensor([1, 3]))[0][:, 0, 0, 0].tolist() == [1.0, 3.0]
    fit = sf.fit(
        [lambda x, t: -x] * 3, np.random.default_rng(0).normal(size=(40, 1)), schedule=sf.schedule.VP(), progress=False
    )
    fused.weights = fit
    np.testing.assert_array_equal(fused.weights, fit.weights)
    fused.weights = fit.per_time()
    assert callable(fused.weights)


def test_branches_without_weight_are_not_called():
    networks = [Recorder(1.0), Recorder(2.0)]
    fused = sf.diffusers.fuse(networks, [0.0, 1.0])
    fused(torch.zeros(1, 4, 3, 3), 1)
    fused.weights = lambda t: [0.5, 0] if t > 3 else [0, 0.5]
    fused(torch.zeros(1, 4, 3, 3), 5)
    assert [network.calls for network in networks] == [1, 1]
    fused.weights = [0, 0]
    with pytest.raises(ValueError, match="all weights are 0"):
        fused(torch.zeros(1, 4, 3, 3), 1)


@pytest.mark.parametrize("weights", [[1.0], [1, 2, 3], [math.nan, 1], [[0.5, 0.5]]])
def test_weights_that_cannot_be_are_refused(weights):
    with pytest.raises(ValueError, match=r"weights must be (\(2,\)|finite)"):
        sf.diffusers.fuse([Recorder(1.0), Recorder(2.0)], weights)
    fused = sf.diffusers.fuse([Recorder(1.0), Recorder(2.0)], lambda t: weights)
    if weights != [[0.5, 0.5]]:
        with pytest.raises(ValueError, match=r"weights(\(t\) must be \(2,\)| must be finite)"):
            fused(torch.zeros(2, 4, 3, 3), 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_depend_on_time_are_asked_in_the_time_of_the_scheduler(family):
    times = []

    def weights(t):
        times.append(t)
        return LAMBDA

    pipe = MAKE[family](sf.diffusers.fuse(two(family), weights))
    out = run(pipe)
    np.testing.assert_allclose(times, pipe.scheduler.timesteps.double(), rtol=1e-6)
    network_of(pipe).weights = LAMBDA
    assert torch.equal(run(pipe), out)


def test_weights_follow_a_callback():
    networks = two("sd")
    pipe = pipelines.sd(sf.diffusers.fuse(networks, [1.0, 0.0]))

    def turn(pipe, step, t, kwargs):
        pipe.unet.weights = [0.0, 1.0]
        return {}

    out = run(pipe, callback_on_step_end=turn)
    pipe.unet.weights = lambda t: [1.0, 0.0] if t == pipe.scheduler.timesteps[0] else [0.0, 1.0]
    assert torch.equal(run(pipe), out)


# --------------------------------------------------------------------------------------------- prompts and guidance


class Prompts(ByHand):
    """Each network has its own texts."""

    def forward(self, *args, **kwargs):
        out = []
        for network, own in zip(self.networks, self.own, strict=True):
            merged = {**kwargs, **own}
            if "added_cond_kwargs" in own:
                merged["added_cond_kwargs"] = {**kwargs["added_cond_kwargs"], **own["added_cond_kwargs"]}
            out.append(network(*args, **merged)[0])
        return (exact(out, self.weights),)


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
def test_branches_have_their_own_prompts(family, guided):
    network, texts = NETWORKS[family](), ["a cat", "two dogs"]
    pipe = MAKE[family](sf.diffusers.fuse([network, network], LAMBDA))
    scale = 5.0 if guided else 1.0
    call = sf.diffusers.encode_prompts(pipe, texts, "fog", num_images_per_prompt=2)
    out = run(pipe, **{"prompt": None, "guidance_scale": scale, **call})

    by_hand = MAKE[family](Prompts([network, network], LAMBDA))
    hand, own = network_of(by_hand), []
    extra = {"sd": {}, "sdxl": {}, "sd3": {"prompt_2": None, "prompt_3": None}}[family]
    for text in texts:
        found = pipe.encode_prompt(
            prompt=text,
            device="cpu",
            num_images_per_prompt=2,
            do_classifier_free_guidance=True,
            negative_prompt="fog",
            **extra,
        )
        found = [torch.cat([found[i + 1], found[i]]) if guided else found[i] for i in range(0, len(found), 2)]
        pooled = {
            "sd": {},
            "sdxl": {"added_cond_kwargs": {"text_embeds": found[-1]}},
            "sd3": {"pooled_projections": found[-1]},
        }
        own.append({"encoder_hidden_states": found[0], **pooled[family]})
    hand.own = own
    same = run(by_hand, prompt="something else", guidance_scale=scale, num_images_per_prompt=2)
    assert out.shape[0] == 2
    assert torch.equal(out, same)


def test_the_texts_of_several_pipelines_are_from_their_own_encoders():
    pipes = [pipelines.sd(seed=0), pipelines.sd(seed=1)]
    pipe = pipelines.sd(sf.diffusers.fuse(pipes, LAMBDA))
    call = sf.diffusers.encode_prompts([pipe, pipes[1]], "a cat")
    first, second = (own["encoder_hidden_states"].wanted for own in call["cross_attention_kwargs"]["branches"])
    assert not torch.equal(first, second)
    assert torch.equal(second, pipes[1].encode_prompt("a cat", "cpu", 1, False)[0])
    assert run(pipe, prompt=None, **call).shape == (1, 4, 8, 8)


def test_flux_branches_have_their_own_embeddings_and_contexts():
    network = NETWORKS["flux"]()
    pipe = pipelines.flux(sf.diffusers.fuse([network, network], [1.0, 0.0]))
    other = pipelines.flux_prompt(5)
    own = {"encoder_hidden_states": other["prompt_embeds"], "pooled_projections": other["pooled_prompt_embeds"]}
    asked = run(pipelines.flux(network), **other)
    pipe.transformer.weights = [0.0, 1.0]
    assert torch.equal(run(pipe, joint_attention_kwargs={"branches": [None, own]}), asked)
    # true guidance calls twice, in contexts "cond" and "uncond"
    negative = {f"negative_{key}": value for key, value in pipelines.flux_prompt(6).items()}
    wanted = {
        key: sf.diffusers._Halves(pipelines.flux_prompt(6)[name], other[name])
        for key, name in [("encoder_hidden_states", "prompt_embeds"), ("pooled_projections", "pooled_prompt_embeds")]
    }
    asked = run(pipelines.flux(network), true_cfg_scale=3.0, **other, **negative)
    zeros = {key: torch.zeros_like(value) for key, value in negative.items()}
    out = run(pipe, true_cfg_scale=3.0, joint_attention_kwargs={"branches": [{}, wanted]}, **zeros)
    assert torch.equal(out, asked)


def test_each_branch_may_be_guided_by_itself():
    networks, w, r = two("sd"), 6.0, [0.5, 1.5]
    n, x, text = 2, torch.randn(2, 4, 8, 8), torch.randn(4, 5, 32)
    fused = sf.diffusers.fuse(networks, LAMBDA, guidance=r)
    with torch.no_grad():
        y = fused(torch.cat([x, x]), 7, text, return_dict=False)[0]
        out = [network(torch.cat([x, x]), 7, text, return_dict=False)[0].double() for network in networks]
    pipeline = y[:n].double() + w * (y[n:].double() - y[:n].double())
    by_hand = sum(c * (o[:n] + w * r_i * (o[n:] - o[:n])) for c, r_i, o in zip(LAMBDA, r, out, strict=True))
    size = sum(abs(c) * (1 + 2 * w * r_i) * o.abs().max() for c, r_i, o in zip(LAMBDA, r, out, strict=True))
    assert (pipeline - by_hand).abs().max() < 6 * 2.0**-24 * (1 + 2 * w) * size  # six roundings
    fused.guidance = [1, 1]
    equal = fused(torch.cat([x, x]), 7, text, return_dict=False)[0]
    fused.guidance = None
    torch.testing.assert_close(
        equal, fused(torch.cat([x, x]), 7, text, return_dict=False)[0], rtol=0, atol=float(6 * 2.0**-24 * size)
    )
    fused.guidance = r
    for batch in (x, x[:1]):
        with pytest.raises(ValueError, match="guidance_scale > 1"):
            fused(batch, 7, text[: len(batch)])


def test_prompts_for_another_batch_are_refused():
    pipe = pipelines.sd(sf.diffusers.fuse(two("sd"), LAMBDA))
    call = sf.diffusers.encode_prompts(pipe, ["a", "b"])
    with pytest.raises(ValueError, match="prompts for 1 images, but the network is called for a batch of 6"):
        run(pipe, prompt=None, **{**call, "num_images_per_prompt": 3})
    with pytest.raises(ValueError, match="2, one for each branch, got 3"):
        sf.diffusers.encode_prompts(pipe, ["a", "b", "c"])
    with pytest.raises(ValueError, match="branches must be 2 dictionaries"):
        run(pipe, cross_attention_kwargs={"branches": [{}]})
    with pytest.raises(ValueError, match="knows no prompts"):
        sf.diffusers.encode_prompts(pipelines.ddpm(), ["a"])


# ------------------------------------------------------------------------------------------------------ a drop-in


def test_it_has_what_pipelines_look_for():
    networks = two("sdxl")
    fused = sf.diffusers.fuse(networks, LAMBDA)
    assert fused.config.sample_size == 8
    assert fused.config.addition_time_embed_dim == networks[0].config.addition_time_embed_dim
    assert fused.add_embedding is networks[0].add_embedding
    assert (fused.dtype, fused.device) == (torch.float32, torch.device("cpu"))
    fused.enable_freeu(0.9, 0.2, 1.2, 1.4)
    assert all(block.s1 == 0.9 for network in networks for block in network.up_blocks)
    assert not hasattr(fused, "nothing_of_the_kind")
    with pytest.raises(AttributeError, match="of one network"):
        fused.load_lora_adapter({})
    assert isinstance(fused, (diffusers.ModelMixin))
    assert not fused.training
    assert [p.data_ptr() for p in fused.parameters()] == [p.data_ptr() for n in networks for p in n.parameters()]


def test_types_and_copies():
    pipe = pipelines.sd(sf.diffusers.fuse(two("sd"), [1 / 3, 2 / 3]))
    pipe.to(torch.bfloat16)
    assert pipe.unet.dtype == torch.bfloat16
    np.testing.assert_array_equal(pipe.unet.weights, [1 / 3, 2 / 3])
    assert run(pipe).dtype == torch.bfloat16
    twin = copy.deepcopy(pipe.unet)
    twin.weights = [1, 0]
    np.testing.assert_array_equal(pipe.unet.weights, [1 / 3, 2 / 3])
    assert twin.models[0] is not pipe.unet.models[0]
    again = diffusers.StableDiffusionImg2ImgPipeline.from_pipe(pipe, unet=pipe.unet)
    assert again.unet is pipe.unet


def test_a_pipeline_is_saved_and_loaded(tmp_path):
    network = NETWORKS["sd"]()
    pipe = pipelines.sd(sf.diffusers.fuse([network, NETWORKS["sd"](1), network], [0.25, 0.5, 0.25], guidance=[1, 2, 1]))
    pipe.save_pretrained(tmp_path)
    again = pipelines.quiet(diffusers.StableDiffusionPipeline.from_pretrained(tmp_path))
    assert isinstance(again.unet, sf.diffusers.FusedModel)
    assert len(again.unet.models) == 2  # the one that is two branches is there once
    np.testing.assert_array_equal(again.unet.weights, [0.25, 0.5, 0.25])
    np.testing.assert_array_equal(again.unet.guidance, [1, 2, 1])
    same(again.unet, pipe.unet)
    torch.testing.assert_close(run(again), run(pipe), rtol=1e-4, atol=1e-4)  # other alignment, other convolutions


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_saved_and_loaded(tmp_path, family):
    fused = sf.diffusers.fuse(two(family), LAMBDA)
    fused.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    same(sf.diffusers.FusedModel.from_pretrained(tmp_path), fused)
    half = sf.diffusers.FusedModel.from_pretrained(tmp_path, torch_dtype=torch.float16)
    assert half.dtype == torch.float16
    same(sf.diffusers.FusedModel.from_config(fused.config).load_state_dict(fused.state_dict()) and fused, fused)


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    np.testing.assert_array_equal(one.weights, other.weights)


def test_what_cannot_be_saved_says_so(tmp_path):
    fused = sf.diffusers.fuse(two("ddpm"), lambda t: LAMBDA)
    with pytest.raises(ValueError, match="function of t cannot be saved"):
        fused.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"only networks of diffusers can be saved and found again, got a .*Recorder"):
        sf.diffusers.fuse([Recorder(1.0), Recorder(2.0)], LAMBDA).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="models of diffusers, got the configuration of a DDIMScheduler"):
        sf.diffusers.FusedModel([{"_class_name": "DDIMScheduler"}])


def test_branches_that_do_not_belong_together_are_refused():
    linear = diffusers.DDIMScheduler()
    velocity = diffusers.DDIMScheduler.from_config(pipelines.sd().scheduler.config, prediction_type="v_prediction")
    for scheduler, message in [(linear, "same noise schedule"), (velocity, "predicts epsilon, branches.1. v")]:
        with pytest.raises(ValueError, match=message):
            sf.diffusers.fuse([pipelines.sd(), pipelines.sd(scheduler=scheduler)], LAMBDA)
    with pytest.raises(ValueError, match=r"same in_channels, got \[4, 3\]"):
        sf.diffusers.fuse([NETWORKS["sd"](), NETWORKS["ddpm"]()], LAMBDA)
    with pytest.raises(TypeError, match="several pipelines or networks, got one"):
        sf.diffusers.fuse(pipelines.sd(), LAMBDA)
    with pytest.raises(TypeError, match=r"branches\[0\] must be a network, or a pipeline .*, got str"):
        sf.diffusers.fuse(["a", "b"], LAMBDA)
    with pytest.raises(ValueError, match="got none"):
        sf.diffusers.fuse([], [])


def test_fusions_of_fusions(tmp_path):
    networks = two("sd")
    inner = sf.diffusers.fuse(networks, [0.5, 0.5])
    outer = sf.diffusers.fuse([inner, networks[0]], [0.5, 0.5])
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 32)
    with torch.no_grad():
        out = [network(x, 3, text).sample for network in networks]
        torch.testing.assert_close(outer(x, 3, text).sample, 0.75 * out[0] + 0.25 * out[1])


def test_caches_of_branches_of_one_network_are_kept_apart():
    seen = []

    class Cached(Recorder):
        @contextlib.contextmanager
        def cache_context(self, name):
            seen.append(name)
            yield

    one, other = Cached(1.0), Cached(2.0)
    fused = sf.diffusers.fuse([one, one, other], [1, 1, 1])
    with fused.cache_context("cond"):
        fused(torch.zeros(1, 4, 2, 2), 1)
    assert seen == ["cond.0", "cond.1", "cond"]


# ----------------------------------------------------------------------------------------------------------- offload


@pytest.mark.parametrize("where", ["host", "files"])
def test_offloaded_branches_predict_the_same(tmp_path, where):
    out = run(pipelines.sd(sf.diffusers.fuse(two("sd"), LAMBDA)))
    pipe = pipelines.sd(sf.diffusers.fuse(two("sd"), LAMBDA, offload=True if where == "host" else tmp_path))
    torch.testing.assert_close(run(pipe), out, rtol=1e-4, atol=1e-4)
    same(pipe.unet, sf.diffusers.fuse(two("sd"), LAMBDA))
    assert len(list(tmp_path.iterdir())) == (0 if where == "host" else 2)
    pipe.to(torch.bfloat16)
    assert pipe.unet.dtype == torch.bfloat16
    assert run(pipe).dtype == torch.bfloat16
    x = torch.randn(1, 4, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"offload\(False\)"):
        pipe.unet(x, 3, torch.randn(1, 5, 32, dtype=torch.bfloat16))
    pipe.unet.offload(False)
    pipe.unet(x, 3, torch.randn(1, 5, 32, dtype=torch.bfloat16)).sample.sum().backward()
    gc.collect()
    assert not list(tmp_path.iterdir())


SIZE = 48 << 20  # bytes


class Large(torch.nn.Module):
    """48 MiB, all of them read. (What is smaller than 32 MiB the C library may keep for itself.)"""

    config = {"in_channels": 4}  # noqa: RUF012

    def __init__(self, seen):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.ones(SIZE // 4)), seen

    def forward(self, x, t, **kwargs):
        out = x * self.weight.sum().to(x.dtype)
        self.seen.append(measured(x.device))
        return (out,)


def measured(device):
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_in_files_the_memory_of_one_branch_is_enough(tmp_path):
    seen = []
    x = torch.ones(1, 4, 2, 2)
    gc.collect()
    before = measured(x.device)
    fused = sf.diffusers.fuse((Large(seen) for _ in range(4)), [1.0] * 4, offload=tmp_path)
    for _ in range(2):
        assert fused(x, 1)[0].unique().tolist() == [4 * SIZE / 4]
    assert max(seen) - before < 1.7 * SIZE


def test_on_a_gpu_the_memory_of_one_branch_is_enough(device):
    if device != "cuda":
        pytest.skip("needs --device cuda")
    seen = []
    x = torch.ones(1, 4, 2, 2, device=device)
    fused = sf.diffusers.fuse((Large(seen) for _ in range(4)), [1.0] * 4, offload=True).to(device)
    before = measured(x.device)
    assert fused(x, 1)[0].unique().tolist() == [4 * SIZE / 4]
    assert max(seen) - before < 1.1 * SIZE
    assert measured(x.device) - before < 1 << 20


def test_an_offloaded_network_is_let_go(tmp_path):
    fused = sf.diffusers.fuse(two("ddpm"), LAMBDA, offload=tmp_path)
    alive = weakref.ref(fused.models[0])
    del fused
    gc.collect()
    assert alive() is None
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------- superposition


def by_hand(pipe, texts):
    """The models of a Stable Diffusion pipeline's network with each of the texts."""
    models = []
    for embeds in pipe.encode_prompt(texts, "cpu", 1, False)[0]:

        def fn(x, t, embeds=embeds):
            return pipe.unet(x, t, embeds.to(x.dtype).expand(len(x), -1, -1), return_dict=False)[0]

        models.append(sf.Model(fn, "epsilon", Discrete.from_diffusers(pipe.scheduler)))
    return models


@pytest.mark.parametrize("scale", [None, 4.0])
@pytest.mark.parametrize("mode", ["and", "or", "mean"])
def test_superposition_of_prompts_is_that_of_models(mode, scale):
    pipe, texts = pipelines.sd(), ["a cat", "two dogs", "a horse"]
    for part in (pipe.unet, pipe.vae):
        part.to(torch.float64)  # so rounding is 1e-16, amplified
    models = by_hand(pipe, texts if scale is None else [*texts, "fog"])
    expected = sf.superpose(
        models, (2, 4, 8, 8), mode=mode, steps=4, seed=3, guidance_scale=scale, like=torch.empty(0).double(), trace=True
    )
    found = sf.diffusers.superpose(
        pipe,
        texts,
        mode=mode,
        steps=4,
        seed=3,
        guidance_scale=scale,
        negative_prompt="fog",
        num_images=2,
        output_type="pt",
    )
    torch.testing.assert_close(found.x, expected.x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.log_density, expected.log_density, rtol=1e-9, atol=1e-9)
    assert found.weights.shape == (4, 2, 3)
    assert found.log_densities.shape == (5, 2, 3)
    assert found.unbiased == (mode != "and")
    kappa = found.weights[-1].numpy()
    if scale is not None:
        kappa = np.concatenate([scale * kappa, (1 - scale) * kappa.sum(-1, keepdims=True)], -1)
    with torch.no_grad():
        x0 = sf.Fusion(models, lambda t: kappa).x0(expected.x, 0.0)
        image = pipe.vae.decode(x0 / pipe.vae.config.scaling_factor).sample
    torch.testing.assert_close(found.images, (image / 2 + 0.5).clamp(0, 1), rtol=1e-6, atol=1e-6)


def test_a_network_is_called_once_for_all_prompts():
    pipe = pipelines.sd()
    pipe.unet = ByHand([pipe.unet], [1.0])
    sf.diffusers.superpose(pipe, ["a", "b", "c"], steps=4, num_images=2)
    assert pipe.unet.calls == 4 + 1  # and one for the image


def test_superposition_of_networks():
    pipes = [pipelines.sd(seed=seed) for seed in range(3)]
    found = sf.diffusers.superpose(pipes, "a cat", steps=4, guidance_scale=None)
    assert torch.allclose(found.log_density, found.log_density[:, :1], rtol=1e-6)  # "and"
    assert found.images[0].size == (16, 16)
    fused = pipelines.sd(sf.diffusers.fuse(pipes, [0.2, 0.3, 0.5]))
    for pipe in pipes:
        pipe.text_encoder = fused.text_encoder
    one, other = (
        sf.diffusers.superpose(p, ["a", "b", "c"], mode="or", weights=[0.2, 0.3, 0.5], steps=4, output_type="latent")
        for p in (pipes, fused)
    )
    torch.testing.assert_close(one.images, other.images)
    torch.testing.assert_close(one.log_density, other.log_density)
    with pytest.raises(ValueError, match="prompts must be one for all, or 3"):
        sf.diffusers.superpose(pipes, ["a", "b"])


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_superposition_of_other_families(family):
    pipe = MAKE[family]()
    found = sf.diffusers.superpose(pipe, ["a cat", "a dog"], steps=4, height=12, width=8, output_type="np")
    assert found.images.shape == (1, 12, 8, 3)
    assert np.isfinite(found.images).all()
    assert torch.isfinite(found.log_density).all()
    with pytest.raises(ValueError, match="height must be a multiple of 2, got 13"):
        sf.diffusers.superpose(pipe, ["a", "b"], height=13)


def test_superposition_without_texts():
    pipes = [pipelines.ddpm(seed=seed) for seed in range(2)]
    found = sf.diffusers.superpose(pipes, "", steps=4, guidance_scale=None, noise="ode", probes=2)
    assert found.images[0].size == (8, 8)
    assert found.unbiased
    with pytest.raises(ValueError, match="knows no prompts"):
        sf.diffusers.superpose(pipes, "a cat", guidance_scale=None)


def test_the_safety_checker_is_asked():
    pipe = pipelines.sd()
    asked = []
    pipe.run_safety_checker = lambda image, device, dtype: (
        asked.append(image.shape) or torch.zeros_like(image),
        [True],
    )
    pipe.safety_checker = Recorder(0.0)
    found = sf.diffusers.superpose(pipe, ["a", "b"], steps=2, output_type="pt")
    assert asked
    assert not found.images.any()


# --------------------------------------------------------------------------------------------------------------- fit


def images(n=6):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_fit_is_that_of_the_models_on_encoded_images():
    pipes = [pipelines.sd(seed=0), pipelines.sd(seed=1)]
    found = sf.diffusers.fit(pipes, images(), prompt="a cat", draws=4, seed=5, progress=False)
    with torch.no_grad():
        z = pipes[0].vae.encode(2 * images() - 1).latent_dist
        noise = sf.Noise(5, sf.diffusers._ENCODE).like(z.mean)
        latents = (z.mean + z.std * noise) * pipes[0].vae.config.scaling_factor
        models = [by_hand(pipe, ["a cat"])[0] for pipe in pipes]
        expected = sf.fit(models, latents, draws=4, batch_size=8, seed=5, progress=False)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-4)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    fused = sf.diffusers.fuse(pipes, found.per_time())
    assert torch.isfinite(run(pipelines.sd(fused))).all()


def test_images_of_every_kind_are_the_same_data():
    from PIL import Image

    pipes = [pipelines.sd(seed=0), pipelines.sd(seed=1)]
    bytes_ = (images() * 255).round().to(torch.uint8)
    kinds = {
        "torch": bytes_ / 255,
        "bytes": bytes_,
        "numpy": (bytes_ / 255).permute(0, 2, 3, 1).numpy(),
        "numpy bytes": bytes_.permute(0, 2, 3, 1).numpy(),
        "PIL": [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in bytes_],
        "a list": list(bytes_ / 255),
        "loader": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(bytes_ / 255), batch_size=4),
    }
    fits = {name: sf.diffusers.fit(pipes, data, draws=2, progress=False) for name, data in kinds.items()}
    for name, found in fits.items():
        np.testing.assert_allclose(found.weights, fits["torch"].weights, rtol=1e-4, err_msg=name)
        assert found.n == 6


def test_parts_of_the_images_merge():
    pipes = [pipelines.sd(seed=0), pipelines.sd(seed=1)]
    whole = sf.diffusers.fit(pipes, images(), draws=2, progress=False)
    first = sf.diffusers.fit(pipes, images()[:4], draws=2, progress=False)
    second = sf.diffusers.fit(pipes, images()[4:], draws=2, first_datum=4, progress=False)
    np.testing.assert_allclose(first.merge(second).weights, whole.weights, rtol=1e-4)


@pytest.mark.parametrize("family", ["sdxl", "ddpm", "sd3"])
def test_fits_of_other_families(family):
    pipes = [MAKE[family](seed=0), MAKE[family](seed=1)]
    data = images() if family != "ddpm" else images()[..., :8, :8]
    text = "" if family == "ddpm" else "a cat"
    found = sf.diffusers.fit(pipes, data, prompt=text, draws=2, progress=False)
    fused = MAKE[family](sf.diffusers.fuse(pipes, [0.5, 0.5]))
    if family == "ddpm":
        again = sf.diffusers.fit(fused, data, prompt=text, draws=2, progress=False)
        np.testing.assert_allclose(again.weights, found.weights)
    assert abs(found.weights.sum() - 1) < 1e-12


def test_a_fit_finds_the_network_that_the_data_are_of():
    """Networks that are exact for images of one colour: λ is that of their mean, as the barycenter has it."""

    class OneColour(torch.nn.Module):
        def __init__(self, colour, schedule):
            super().__init__()
            self.colour, self.schedule = colour, schedule
            self.config = diffusers.configuration_utils.FrozenDict(in_channels=3, sample_size=2)
            self.dtype, self.device = torch.float32, torch.device("cpu")

        def forward(self, x, t, return_dict=True):
            alpha, sigma = (f(t)[:, None, None, None] for f in (self.schedule.alpha, self.schedule.sigma))
            return (((x - alpha * self.colour) * sigma / (alpha**2 * 0.01 + sigma**2)).float(),)

    pipes = []
    for colour in (-0.5, 0.5):
        pipe = pipelines.ddpm()
        pipe.unet = OneColour(colour, Discrete.from_diffusers(pipe.scheduler))
        pipes.append(pipe)
    x = 0.25 + 0.1 * torch.randn(200, 3, 2, 2, generator=torch.Generator().manual_seed(1))  # λ = (1/4, 3/4)
    found = sf.diffusers.fit(pipes, (x / 2 + 0.5).clamp(0, 1), batch_size=200, progress=False)
    low, high = found.interval(0.9999).T
    assert (low < [0.25, 0.75]).all()
    assert (high > [0.25, 0.75]).all()
    assert (high - low < 0.1).all()


def test_latents_of_two_kinds_are_refused():
    other = pipelines.sd(seed=1)
    other.vae = pipelines.vae(scaling_factor=0.5)
    with pytest.raises(ValueError, match="latents of one kind"):
        sf.diffusers.fit([pipelines.sd(), other], images())
    with pytest.raises(ValueError, match=r"images must be .*, got \(6, 16, 16\)"):
        sf.diffusers.fit([pipelines.sd(), pipelines.sd(seed=1)], images()[:, 0])
    with pytest.raises(TypeError, match=r"must be pipelines of diffusers .*, got a .*UNet2DModel"):
        sf.diffusers.fit([NETWORKS["ddpm"]()], images())
