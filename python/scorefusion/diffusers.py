"""Fused diffusers pipelines: the mixture Σ_i λ_i out_i of networks in the place of one, learned and sampled::

    pipe.unet = sf.diffusers.fuse([pipe, other], [0.3, 0.7])       # or pipe.transformer
    fit = sf.diffusers.fit([pipe, other], images, prompt="...")    # learns the weights
    both = sf.diffusers.superpose(pipe, ["a cat", "a dog"])        # samples of all prompts at once

Networks of one noise schedule and one kind of prediction predict linear functions of their scores, the same for all, so
the mixture of what they return is the mixture of their scores.

Guidance, out_un + w (out_text − out_un), is linear too. By default the pipeline applies it to the mixture, with the
same λ for both halves of its batch; that equals guiding each branch with the same w. Branches of guidance of their own
are had by ``guidance=``.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import diffusers as library
import numpy as np
import safetensors.torch
import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.modeling_utils import ModelMixin

from . import _namespace, fitting, superposition
from ._arguments import SEEDS, _shown, path, real, whole
from ._autograd import combine
from ._core import Noise
from ._fused import Weighted
from .fitting import Fit
from .model import Fusion, Model, _described, _one_of, _weights
from .schedule import Discrete, Schedule

__all__ = ["FusedModel", "ImageSuperposition", "encode_prompts", "fit", "fuse", "superpose"]

_ONE = [1.0]  # the weights of one branch that is returned as it is
_ENCODE = 1 << 63 | 0x7661 << 40  # the stream of the noise in encoded images
_KINDS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}

# The keyword by which pipelines hand a dictionary of the caller on to their network.
_CARRIERS = ("cross_attention_kwargs", "joint_attention_kwargs", "attention_kwargs")

# Networks whose pipelines divide the time by 1000.
_PER_THOUSAND = ("Chroma", "Flux", "LongCatImage", "OvisImage", "QwenImage")

# What changes a network, so all of them are asked.
_FOR_ALL = frozenset(
    {
        "disable_cache",
        "disable_forward_chunking",
        "disable_freeu",
        "enable_cache",
        "enable_forward_chunking",
        "enable_freeu",
        "fuse_qkv_projections",
        "set_attention_slice",
        "set_attn_processor",
        "set_default_attn_processor",
        "unfuse_qkv_projections",
    }
)


# ------------------------------------------------------------------------------------------------------------------
# A network that is several


class FusedModel(Weighted, ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Σ_i λ_i out_i of k branches, each a network, called as each of them is: made by `fuse`

    A diffusers model like others: ``config`` (that of the first network, and its own), ``dtype``, ``device``, ``to``,
    ``state_dict``, ``save_pretrained`` and ``from_pretrained``, also as a part of a pipeline. Other attributes of
    networks, such as ``add_embedding``, are those of the first; what changes a network (``enable_freeu``,
    ``fuse_qkv_projections``, ``set_attn_processor``, ``enable_cache``, ...) changes all.

    ``weights``: λ, see `fuse`; may be set at any time, also within a call of the pipeline, by its
    ``callback_on_step_end``; ``guidance`` likewise. ``models``: the networks.

    Args:
        networks: modules, or their configurations.
        branches: which network each of the k branches is ``(k,)``; one after the other if None.
        weights: λ ``(k,)``, 1/k if None.
        guidance: ``(k,)``, or None.
    """

    _supports_gradient_checkpointing = True

    def __init__(
        self,
        networks: Sequence[Any],
        branches: Sequence[int] | None = None,
        weights: Any = None,
        guidance: Sequence[float] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if not isinstance(networks, Sequence) or isinstance(networks, str) or not networks:
            raise TypeError(f"networks must be a list of one network or more, got {_described(networks)}")
        modules = [network if isinstance(network, torch.nn.Module) else _built(network) for network in networks]
        self.models = torch.nn.ModuleList(modules)
        self._branches = _numbers(range(len(modules)) if branches is None else branches, len(modules))
        self._resting: list[_Resting] | None = None
        self._device: torch.device | None = None  # where networks that rest elsewhere are called
        self._context: str | None = None
        self._noted: dict[str, Any] = {}
        _check_alike(modules)
        k = len(self._branches)
        self._begin(k, np.full(k, 1 / k) if weights is None else weights)
        self.guidance = guidance

    @property
    def _networks(self) -> list[Any]:
        return list(self._modules["models"]._modules.values())  # type: ignore[union-attr]

    @property
    def guidance(self) -> Any:
        """r ``(k,)``: branch i is guided by r_i times the pipeline's guidance scale; None: by 1."""
        return None if self._guidance is None else np.array(self._guidance)

    @guidance.setter
    def guidance(self, guidance: Any) -> None:
        self._guidance = None if guidance is None else _weights(guidance, self.k, "guidance")

    # The call

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the branches return for the same call, combined; of the kind that they return."""
        own = None
        for name in _CARRIERS:
            carried = kwargs.get(name)
            if carried and "branches" in carried:
                own = self._own(carried["branches"])
                kwargs[name] = {key: value for key, value in carried.items() if key != "branches"} or None
        called, c = self._coefficients() if self._function is None else self._at(*args, **kwargs)
        plain = own is None and self._resting is None and self._context is None
        networks = self._networks
        u = []
        result: Any = None
        for i in called:
            if plain:
                result = networks[self._branches[i]](*args, **kwargs)
            else:
                result = self._call(i, args, kwargs if own is None else self._replaced(own[i], args, kwargs))
            u.append(result if isinstance(result, torch.Tensor) else result[0])
        if not u:
            raise ValueError("all weights are 0, so there is nothing to predict: set others")
        if self._guidance is None:
            y = u[0] if type(c) is list and c == _ONE else combine(u, c)
        else:
            y = _guided_apart(u, c, self._guidance[called], _sample_of(*args, **kwargs))
        return (y,) if type(result) is tuple and len(result) == 1 else _like(result, y)

    def _at(self, *args: Any, **kwargs: Any) -> tuple[list[int], Any]:
        """The branches that are called and their weights, which depend on the time."""
        t = args[1] if len(args) > 1 else kwargs["timestep"]
        times = np.asarray(_namespace.host(t) if isinstance(t, torch.Tensor) else t, np.float64).reshape(-1)
        if type(self._networks[0]).__name__.startswith(_PER_THOUSAND):
            times = 1000 * times
        same = len(times) > 0 and bool((times == times[0]).all())
        return self._of_time(float(times[0]) if same else times, len(_sample_of(*args, **kwargs)))

    def _own(self, branches: Any) -> list[dict[str, Any]]:
        """What each branch is called with instead."""
        if len(branches) != self.k:
            raise ValueError(f"branches must be {self.k} dictionaries, one for each branch, got {len(branches)}")
        return [own or {} for own in branches]

    def _replaced(self, own: dict[str, Any], args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        return _replaced(own, _sample_of(*args, **kwargs), kwargs, self._context)

    def _call(self, i: int, args: Any, kwargs: dict[str, Any]) -> Any:
        """What branch i returns."""
        n = self._branches[i]
        network = self._networks[n]
        if self._resting is None and self._context is None:
            return network(*args, **kwargs)
        with contextlib.ExitStack() as stack:
            if self._resting is not None:
                if torch.is_grad_enabled() and getattr(_sample_of(*args, **kwargs), "requires_grad", False):
                    raise RuntimeError(
                        "there are no gradients through branches that are offloaded: call offload(False)"
                    )
                stack.enter_context(torch.no_grad())
                stack.enter_context(self._resting[n].awake(self.device))
            if self._context is not None and hasattr(network, "cache_context"):
                shared = self._branches.count(n) > 1  # what is cached is each branch's own
                stack.enter_context(network.cache_context(f"{self._context}.{i}" if shared else self._context))
            return network(*args, **kwargs)

    def branch(self, i: int, *args: Any, **kwargs: Any) -> Any:
        """What branch i alone returns for a call."""
        return self._call(whole("i", i, 0, self.k), args, kwargs)

    @contextlib.contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        """What networks cache in here, under the caching techniques of diffusers, is kept apart under this name."""
        before, self._context = self._context, name
        try:
            yield
        finally:
            self._context = before

    # Where the networks are

    @property
    def device(self) -> Any:
        """Where it computes."""
        return self._device or _device_of(self._networks[0])

    @property
    def dtype(self) -> Any:
        """That of the first network."""
        return _dtype_of(self._networks[0])

    def offload(self, where: bool | str | os.PathLike[str] = True) -> FusedModel:
        """Each network is on the model's device while it is called, and elsewhere otherwise: as for `fuse`."""
        where = where if isinstance(where, bool) else path("where", where)
        if self._resting is not None:
            device, self._device = self._device, None
            for resting in self._resting:
                resting.end(device)
            self._resting = None
        if where is not False:
            self._device = self.device
            self._resting = [_Resting(network, where) for network in self._networks]
        return self

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Any:
        """What `to`, `cuda`, `half`, ... do. Networks that rest stay where they are: only the device is noted."""
        if self._resting is None:
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        before = torch.empty(0, dtype=self.dtype, device=self._device)
        after = fn(before)
        self._device = after.device
        if after.dtype != before.dtype:
            for resting in self._resting:
                resting.cast(after.dtype)
        return self

    # What a network has

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            networks = self._networks if "models" in self.__dict__.get("_modules", {}) else []
            if name.startswith("_") or not networks or not hasattr(networks[0], name):
                raise
        if name in _FOR_ALL:
            return functools.partial(self._for_all, name)
        value = getattr(networks[0], name)
        if inspect.ismethod(value):
            raise AttributeError(
                f"{name} is of one network: call it on each of them, .models[i].{name}, before they are fused"
            )
        return value

    def _for_all(self, name: str, *args: Any, **kwargs: Any) -> None:
        for network in self._networks:
            getattr(network, name)(*args, **kwargs)

    # Files

    @property
    def config(self) -> Any:
        """That of the first network, and what `from_config` makes this model of."""
        first = getattr(self._networks[0], "config", {})
        return FrozenDict({**first, **self._internal_dict})  # type: ignore[no-untyped-call]

    @property
    def _internal_dict(self) -> Any:  # type: ignore[override]  # where ConfigMixin looks
        return FrozenDict(  # type: ignore[no-untyped-call]
            {
                **self._noted,
                "networks": [_config_of(network) for network in self._networks],
                "branches": self._branches,
                "weights": None if self._function is not None else self.weights.tolist(),
                "guidance": None if self._guidance is None else self._guidance.tolist(),
            }
        )

    def register_to_config(self, **noted: Any) -> None:
        """Notes where it was loaded from; all else is always as it is."""
        self._noted |= {name: value for name, value in noted.items() if name.startswith("_")}

    def to_json_string(self) -> str:
        """The configuration."""
        if self._function is not None:
            raise ValueError(
                "weights that are a function of t cannot be saved: set numbers, and the function anew after loading"
            )
        for network in self._networks:
            if _class_named(type(network).__name__) is not type(network):
                name = f"{type(network).__module__}.{type(network).__qualname__}"
                raise ValueError(f"only networks of diffusers can be saved and found again, got a {name}")
        return str(super().to_json_string())


def fuse(
    branches: Iterable[Any],
    weights: Any,
    *,
    guidance: Any = None,
    offload: bool | str | os.PathLike[str] = False,
) -> FusedModel:
    """A network that predicts Σ_i λ_i out_i, to be put in the place of ``pipe.unet`` or ``pipe.transformer``

    Args:
        branches: k pipelines, of which the networks are taken, or networks. They must have one noise schedule and kind
            of prediction, and latents of the same meaning. One network may be several branches, for prompts of their
            own (`encode_prompts`).
        weights: λ ``(k,)``, any finite numbers; whatever has such ``.weights`` (a Fit); or a function of t that returns
            ``(k,)``, such as ``fit.per_time()``. t is a float, in the units of the pipeline's scheduler (0 to 1000).
            A branch whose weight is 0 is not called. Gradients reach a tensor that wants them.
        guidance: r ``(k,)``: branch i is guided by r_i times the pipeline's ``guidance_scale``, which must be at work.
            By default guidance comes after the mixture, with all r_i = 1.
        offload: True: networks are on the model's device only while called, one at a time, and in the host's memory
            otherwise. A folder: they wait in files there, which also spares the host's memory. No gradients then.
            Branches are taken one by one: given as a generator that loads them, never two are in memory.

    Returns:
        A `FusedModel`, an ``nn.Module``, with ``.weights`` and ``.guidance`` that may be set at any time.

    Example:
        >>> from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
        >>> import scorefusion as sf
        >>> kinds = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "block_out_channels": [32]}
        >>> pipe, other = (DDPMPipeline(UNet2DModel(sample_size=8, **kinds), DDPMScheduler()) for _ in range(2))
        >>> pipe.unet = sf.diffusers.fuse([pipe, other], [0.25, 0.75])
        >>> pipe.set_progress_bar_config(disable=True)
        >>> image = pipe(num_inference_steps=2).images[0]
        >>> pipe.unet.weights = [0.5, 0.5]
    """
    if isinstance(branches, (torch.nn.Module, library.DiffusionPipeline)):
        raise TypeError(f"branches must be several pipelines or networks, got one {type(branches).__name__}")
    try:
        branches = iter(branches)
    except TypeError:
        raise TypeError(f"branches must be a list of pipelines or networks, got {_described(branches)}") from None
    offload = offload if isinstance(offload, bool) else path("offload", offload)
    networks: list[Any] = []
    resting: list[_Resting] = []
    order: list[int] = []
    scheduler: Any = None
    device = None
    for i, branch in enumerate(branches):
        network = _network_of(branch, f"branches[{i}]")
        if hasattr(branch, "scheduler"):
            scheduler = scheduler or branch.scheduler
            _check_same_prediction(scheduler, branch.scheduler, f"branches[{i}]")
        known = next((n for n, other in enumerate(networks) if other is network), len(networks))
        order.append(known)
        if known == len(networks):
            networks.append(network)
            device = device or _device_of(network)
            if offload is not False:
                resting.append(_Resting(network, offload))
        del branch, network
    if not order:
        raise ValueError("branches must be one pipeline or network, or more, got none")
    fused = FusedModel(networks, order, weights, guidance)
    if resting:
        fused._resting, fused._device = resting, device
    return fused.eval() if not any(network.training for network in networks) else fused


def _network_of(branch: Any, name: str) -> Any:
    """The module, or that of a pipeline."""
    if isinstance(branch, torch.nn.Module):
        return branch
    for part in ("unet", "transformer"):
        network = getattr(branch, part, None)
        if isinstance(network, torch.nn.Module):
            return network
    raise TypeError(
        f"{name} must be a network, or a pipeline with a unet or a transformer, got {type(branch).__name__}"
    )


def _check_alike(networks: Sequence[Any]) -> None:
    for name in ("in_channels", "out_channels"):
        values = [getattr(getattr(network, "config", None), name, None) for network in networks]
        if any(value != values[0] for value in values):
            raise ValueError(f"networks must have the same {name}, got {values}")


def _check_same_prediction(first: Any, other: Any, name: str) -> None:
    mine, theirs = (_kind_of(scheduler) for scheduler in (first, other))
    if mine != theirs:
        raise ValueError(
            f"branches must predict the same: the first predicts {mine}, {name} {theirs}; "
            "sf.Fusion of sf.Model(network, predicts, schedule) converts"
        )
    mine, theirs = (Discrete.from_diffusers(scheduler) for scheduler in (first, other))  # type: ignore[assignment]
    if mine != theirs:
        raise ValueError(
            f"branches must have the same noise schedule: the first has {mine}, {name} {theirs}; "
            "sf.Fusion of sf.Model(network, predicts, schedule) takes networks of any"
        )


def _kind_of(scheduler: Any) -> str:
    """What networks of this scheduler predict."""
    config = scheduler.config
    if config.get("use_flow_sigmas") or "FlowMatch" in type(scheduler).__name__:
        return "flow"
    kind = config.get("prediction_type", "epsilon")
    if kind not in _KINDS:
        raise ValueError(f"prediction_type must be one of {', '.join(map(repr, _KINDS))}, got {kind!r}")
    return _KINDS[kind]


def _guided_apart(u: list[Any], c: Any, r: Any, x: Any) -> Any:
    """[U, U + Σ_j c_j r_j (text_j − un_j)] of outputs [un_j, text_j], U = Σ_j c_j un_j; c ``(m,)`` or ``(B, m)``."""
    n = len(u[0]) // 2
    if len(u[0]) != 2 * n or not torch.equal(x[:n], x[n:]):
        raise ValueError(
            "guidance of each branch needs a batch [unconditional, conditional] of the same samples: "
            "a pipeline that calls its network so, with guidance at work (guidance_scale > 1)"
        )
    c = torch.as_tensor(c, dtype=torch.float64)
    low, high = (c, c) if c.ndim == 1 else (c[:n], c[n:])
    guided = high * torch.as_tensor(r, device=c.device)
    un, text = [u_j[:n] for u_j in u], [u_j[n:] for u_j in u]
    return torch.cat([combine(un, low), combine(un + text, torch.cat([low - guided, guided], -1))])


def _like(result: Any, y: Any) -> Any:
    """y in the place of what a network returned."""
    if isinstance(result, torch.Tensor):
        return y
    if isinstance(result, tuple):
        return (y, *result[1:])
    first, *others = (field.name for field in fields(result))
    return type(result)(**{first: y, **{name: getattr(result, name) for name in others}})


def _sample_of(*args: Any, **kwargs: Any) -> Any:
    """The first argument of a network."""
    return args[0] if args else kwargs["sample" if "sample" in kwargs else "hidden_states"]


def _config_of(network: Any) -> dict[str, Any]:
    return {**getattr(network, "config", {}), "_class_name": type(network).__name__}


def _class_named(name: str) -> Any:
    return FusedModel if name == "FusedModel" else getattr(library, name, None)


def _numbers(branches: Any, count: int) -> list[int]:
    """Which network each branch is."""
    if not isinstance(branches, Sequence):
        raise TypeError(f"branches must be a list of the numbers of networks, got {_described(branches)}")
    if not branches:
        raise ValueError("branches must be one or more, got none")
    return [whole(f"branches[{i}]", branch, 0, count) for i, branch in enumerate(branches)]


def _built(config: Any) -> torch.nn.Module:
    """The network of a configuration, of a class of diffusers."""
    if not isinstance(config, Mapping) or not isinstance(config.get("_class_name"), str):
        raise TypeError(f"networks must be modules, or configurations of such, got {_described(config)}")
    kind = _class_named(config["_class_name"])
    if not (inspect.isclass(kind) and issubclass(kind, ModelMixin)):
        raise ValueError(f"networks must be models of diffusers, got the configuration of a {config['_class_name']}")
    network: torch.nn.Module = kind.from_config(dict(config))  # type: ignore[attr-defined]
    return network


class _Resting:
    """A network that waits in the host's memory or in a file, and is on a device while it is called."""

    def __init__(self, network: torch.nn.Module, where: bool | str | os.PathLike[str]) -> None:
        self.network = network
        self._tensors = [*network.parameters(), *network.buffers()]
        self._file = None if where is True else _File(where)
        self._rest: list[Any] = []
        self._store()

    def _store(self) -> None:
        """Takes all tensors as they are to where they wait."""
        if self._file is None:
            for tensor in self._tensors:
                tensor.data = tensor.data.cpu()
            self._rest = [tensor.data for tensor in self._tensors]
        else:
            stored = {str(i): tensor.data.contiguous() for i, tensor in enumerate(self._tensors)}
            safetensors.torch.save_file(stored, self._file.path)
            self._leave()

    def _leave(self) -> None:
        """Back to rest: nothing was changed, so nothing is copied."""
        if self._file is not None:  # mapped anew: what was read of the file is let go
            mapped = safetensors.torch.load_file(self._file.path)
            self._rest = [mapped[str(i)] for i in range(len(self._tensors))]
        for tensor, rest in zip(self._tensors, self._rest, strict=True):
            tensor.data = rest

    @contextlib.contextmanager
    def awake(self, device: Any) -> Iterator[None]:
        for tensor, rest in zip(self._tensors, self._rest, strict=True):
            tensor.data = rest.to(device)
        try:
            yield
        finally:
            self._leave()

    def cast(self, dtype: torch.dtype) -> None:
        for tensor in self._tensors:
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
        self._store()

    def end(self, device: Any) -> None:
        """In memory, for good."""
        for tensor in self._tensors:
            tensor.data = tensor.data.to(device, copy=self._file is not None)
        self._rest = []


class _File:
    """A file that ends with the last who holds it."""

    def __init__(self, folder: Any) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(".safetensors", "network-", folder)
        os.close(descriptor)
        self.path = Path(name)
        weakref.finalize(self, self.path.unlink, missing_ok=True)

    def __deepcopy__(self, memo: Any) -> _File:
        return self


def _device_of(network: Any) -> torch.device:
    tensor = next(itertools.chain(network.parameters(), network.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _dtype_of(network: Any) -> torch.dtype:
    known = getattr(network, "dtype", None)  # which minds hooks that cast
    if isinstance(known, torch.dtype):
        return known
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)


# ------------------------------------------------------------------------------------------------------------------
# Texts


class _Halves:
    """What belongs to a text, and to the one that is not wanted, each ``(n, ...)``."""

    def __init__(self, unwanted: Any, wanted: Any) -> None:
        self.unwanted, self.wanted = unwanted, wanted
        self._both: Any = None

    def of(self, x: Any, context: str | None) -> Any:
        """For the batch x: ``(n, ...)``, or ``(2n, ...)`` in the order of guidance."""
        n, B = len(self.wanted), len(x)
        if n == B:
            return (self.unwanted if context == "uncond" else self.wanted).to(x.device, x.dtype)
        if 2 * n != B:
            raise ValueError(f"the branches have prompts for {n} images, but the network is called for a batch of {B}")
        if self._both is None or self._both.device != x.device or self._both.dtype != x.dtype:
            self._both = torch.cat([self.unwanted, self.wanted]).to(x.device, x.dtype)
        return self._both


def _replaced(own: dict[str, Any], x: Any, kwargs: dict[str, Any], context: str | None) -> dict[str, Any]:
    """The keywords of a call for the batch x, with a branch's own in the place of some."""

    def value(given: Any, before: Any) -> Any:
        if isinstance(given, _Halves):
            return given.of(x, context)
        if isinstance(given, dict):
            before = before or {}
            return {**before, **{key: value(v, before.get(key)) for key, v in given.items()}}
        return given

    return {**kwargs, **{key: value(given, kwargs.get(key)) for key, given in own.items()}}


def _encoded(pipe: Any, prompt: list[str], negative_prompt: list[str]) -> dict[str, Any]:
    """The keywords by which the pipeline's network is given these n texts; values are `_Halves`, or dictionaries."""
    encode = getattr(pipe, "encode_prompt", None)
    if encode is None:
        if any(prompt) or any(negative_prompt):
            raise ValueError(f"a {type(pipe).__name__} knows no prompts, got {prompt}")
        return {}
    asked = {
        "prompt": prompt,
        "prompt_2": None,
        "prompt_3": None,
        "device": pipe._execution_device,
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": True,
        "negative_prompt": negative_prompt,
    }
    known = inspect.signature(encode).parameters
    with torch.no_grad():
        found = encode(**{name: value for name, value in asked.items() if name in known})
        if "negative_prompt" not in known:  # Flux: embeddings, pooled ones, positions
            again = encode(**{name: v for name, v in {**asked, "prompt": negative_prompt}.items() if name in known})
            found = (found[0], again[0], found[1], again[1])
    if len(found) == 2:
        return {"encoder_hidden_states": _Halves(found[1], found[0])}
    if len(found) != 4:
        raise TypeError(f"the prompts of a {type(pipe).__name__} are of a kind that is not known here")
    hidden, pooled = _Halves(found[1], found[0]), _Halves(found[3], found[2])
    if getattr(pipe, "unet", None) is None:
        return {"encoder_hidden_states": hidden, "pooled_projections": pooled}
    return {"encoder_hidden_states": hidden, "added_cond_kwargs": {"text_embeds": pooled}}


def encode_prompts(
    pipelines: Any,
    prompts: str | Sequence[str | Sequence[str]],
    negative_prompt: str | Sequence[str] = "",
    *,
    num_images_per_prompt: int = 1,
) -> dict[str, Any]:
    """What to call a pipeline with, so that each branch of its fused network has its own prompt

        pipe(**sf.diffusers.encode_prompts(pipe, ["a cat", "a dog"]), num_inference_steps=30)

    Args:
        pipelines: the one to be called, whose network is a `FusedModel`; or k of them, if each branch is to have
            its texts from the text encoders of its own pipeline. The first is then the one to be called.
        prompts: k, one for each branch, or one for all; each a string, or n of them for n images.
        negative_prompt: for guidance, one for all branches or k.
        num_images_per_prompt: how many images are made of each.

    Returns:
        Keyword arguments: embeddings of the first branch, and those of all under "branches" in the dictionary that the
        pipeline hands on to its network (``cross_attention_kwargs`` or ``joint_attention_kwargs``). That is also the
        place for anything else that a branch should be called with: ``{"branches": [{"timestep_cond": ...}, {}]}``.
    """
    pipes = list(pipelines) if isinstance(pipelines, (list, tuple)) else [pipelines]
    if not pipes:
        raise ValueError("pipelines must be one or more, got none")
    network = _network_of(pipes[0], "pipelines[0]")
    k = network.k if isinstance(network, FusedModel) else len(pipes)
    texts = [_texts(text, f"prompts[{i}]") for i, text in enumerate(_each(prompts, k, "prompts"))]
    if any(len(text) != len(texts[0]) for text in texts):
        raise ValueError(f"prompts must be as many for each branch, got {[len(text) for text in texts]}")
    unwanted = _each_text(negative_prompt, k, "negative_prompt")
    num_images_per_prompt = whole("num_images_per_prompt", num_images_per_prompt, 1)
    if len(pipes) not in (1, k):
        raise ValueError(f"pipelines must be one, or {k}, one for each branch, got {len(pipes)}")
    pipes = pipes * k if len(pipes) == 1 else pipes
    own = [_encoded(pipe, text, [no] * len(text)) for pipe, text, no in zip(pipes, texts, unwanted, strict=True)]
    if not own[0]:
        raise ValueError(f"a {type(pipes[0]).__name__} knows no prompts")
    hidden = own[0]["encoder_hidden_states"]
    call = {"prompt_embeds": hidden.wanted, "negative_prompt_embeds": hidden.unwanted}
    pooled = own[0].get("pooled_projections") or own[0].get("added_cond_kwargs", {}).get("text_embeds")
    if pooled is not None:
        call |= {"pooled_prompt_embeds": pooled.wanted, "negative_pooled_prompt_embeds": pooled.unwanted}
    branches = [_repeated(kwargs, num_images_per_prompt) for kwargs in own]
    known = inspect.signature(pipes[0].__call__).parameters
    carrier = next(name for name in _CARRIERS if name in known)
    return {**call, "num_images_per_prompt": num_images_per_prompt, carrier: {"branches": branches}}


def _each(value: Any, k: int, name: str) -> list[Any]:
    """k of them, of one for all or k."""
    values = [value] * k if isinstance(value, str) else list(value) if isinstance(value, Sequence) else None
    if values is None:
        raise TypeError(f"{name} must be text, one for all or {k}, got {_described(value)}")
    if len(values) != k:
        raise ValueError(f"{name} must be one for all, or {k}, one for each branch, got {len(values)}")
    return values


def _each_text(value: Any, k: int, name: str) -> list[str]:
    return _texts(_each(value, k, name), name)


def _texts(value: Any, name: str) -> list[str]:
    """One text, or several."""
    texts: list[Any] = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{name} must be text, or a list of texts, got {_shown(value)}")
    return texts


def _repeated(kwargs: dict[str, Any], times: int) -> dict[str, Any]:
    def repeated(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: repeated(v) for key, v in value.items()}
        return _Halves(*(half.repeat_interleave(times, 0) for half in (value.unwanted, value.wanted)))

    return {key: repeated(value) for key, value in kwargs.items()}


# ------------------------------------------------------------------------------------------------------------------
# Networks as models


class _Denoiser:
    """A network with m texts, or none: m functions (x, t), for which it is called once."""

    def __init__(self, pipe: Any, call: Callable[..., Any], texts: Sequence[str], size: tuple[int, int]) -> None:
        self._call, self._network = call, _network_of(pipe, "pipe")
        self._keywords = getattr(pipe, "unet", None) is None
        self._channels = self._network.config.in_channels
        self._m = len(texts)
        own = _encoded(pipe, list(texts), [""] * len(texts))
        self._texts = {key: _wanted(value) for key, value in own.items()}
        if "added_cond_kwargs" in self._texts:
            height, width = size
            ids = torch.tensor([[height, width, 0, 0, height, width]], device=self._network.device)
            self._texts["added_cond_kwargs"]["time_ids"] = ids.repeat(self._m, 1)
        self._asked: Any = None
        self._answers: Any = None
        self._rows: dict[tuple[int, int | None], dict[str, Any]] = {}

    def functions(self) -> list[Callable[[Any, Any], Any]]:
        return [functools.partial(self._answer, j) for j in range(self._m)]

    def _answer(self, j: int, x: Any, t: Any) -> Any:
        """For text j ``(B, *event)``; the other texts' answers for the same x and t are kept."""
        if _namespace.is_traced(x):  # each has its own derivatives
            return self._ask(x, t, j)
        if self._asked is None or self._asked[0] is not x or not _same_times(self._asked[1], t):
            self._asked = None
            with torch.no_grad():
                self._answers = self._ask(x, t, None).chunk(self._m)
            self._asked = x, t  # held, so that nobody writes into them meanwhile
        return self._answers[j]

    def _ask(self, x: Any, t: Any, j: int | None) -> Any:
        """For text j, or for all of them, one batch after the other."""
        m = self._m if j is None else 1
        B = x.shape[0]
        dtype = self._network.dtype
        kwargs = self._rows_of(B, j, dtype)
        rows, times = x.to(dtype), t
        if m > 1:
            rows, times = torch.cat([rows] * m), torch.cat([t] * m)
        if self._keywords:
            kwargs = {"hidden_states": rows, "timestep": times, **kwargs}
            out = self._call(**kwargs, return_dict=False)[0]
        else:
            out = self._call(rows, times, **kwargs, return_dict=False)[0]
        return out[:, : self._channels] if out.shape[1] == 2 * self._channels else out  # without learned variances

    def _rows_of(self, B: int, j: int | None, dtype: Any) -> dict[str, Any]:
        """The texts for every row of the batch, kept for the next step."""

        def rows(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: rows(v) for key, v in value.items()}
            value = value if j is None else value[j : j + 1]
            return value.to(dtype if value.is_floating_point() else value.dtype).repeat_interleave(B, 0)

        if (B, j) not in self._rows:
            self._rows = {(B, j): {key: rows(value) for key, value in self._texts.items()}}
        return self._rows[B, j]


def _same_times(one: Any, other: Any) -> bool:
    return one is other or torch.equal(one, other)  # a sampler passes the same tensor, so nothing waits for a GPU


def _wanted(value: Any) -> Any:
    return {key: _wanted(v) for key, v in value.items()} if isinstance(value, dict) else value.wanted


def _networks_of(pipelines: Any) -> list[tuple[Any, Callable[..., Any]]]:
    """(pipeline, function of a call) of every network, those of a fused one each for itself."""
    pipes = list(pipelines) if isinstance(pipelines, (list, tuple)) else [pipelines]
    if not pipes:
        raise ValueError("pipelines must be one or more, got none")
    found: list[tuple[Any, Callable[..., Any]]] = []
    for i, pipe in enumerate(pipes):
        if not isinstance(pipe, library.DiffusionPipeline):
            raise TypeError(f"pipelines must be pipelines of diffusers (one pipe or more), got {_described(pipe)}")
        network = _network_of(pipe, f"pipelines[{i}]")
        if isinstance(network, FusedModel):
            found += [(pipe, functools.partial(network.branch, j)) for j in range(network.k)]
        else:
            found.append((pipe, network))
    return found


def _schedule_of(pipe: Any) -> Schedule:
    return Discrete.from_diffusers(pipe.scheduler)


# ------------------------------------------------------------------------------------------------------------------
# Superposition


@dataclass(frozen=True)
class ImageSuperposition(superposition.Superposition[torch.Tensor]):
    """What `superpose` returns: a `Superposition` whose x are latents, and their images."""

    images: Any = None  # B of them, as `output_type` says


def superpose(
    pipe: Any,
    prompts: str | Sequence[str],
    *,
    mode: str = "and",
    steps: int = 50,
    seed: int = 0,
    guidance_scale: float | Callable[[Any], Any] | None = 7.5,
    negative_prompt: str = "",
    num_images: int = 1,
    height: int | None = None,
    width: int | None = None,
    output_type: str = "pil",
    progress: bool = False,
    **settings: Any,
) -> ImageSuperposition:
    """Images of "one and the other" or "one or the other" of k prompts, or of k networks: `scorefusion.superpose`

    Args:
        pipe: a Stable Diffusion pipeline (1.x, 2.x, XL, 3), or one without texts (DDPM). Its network with each of the
            prompts is a model. If the network is a `FusedModel`, or if several pipelines are given, there are k
            networks, each with its own prompt, or all with the same; text encoders are those of each pipeline.
        prompts: k, or one for all networks.
        mode: "and", "or" or "mean".
        steps: how many.
        seed: of all noise.
        guidance_scale: w: steps follow s_un + w (s_i − s_un) for s_i, s_un that of `negative_prompt`; of several
            networks the mean of theirs. None or 1: no guidance. Densities are those of the s_i themselves.
        negative_prompt: what is not wanted; "" for what no text asks for.
        num_images: B, how many images.
        height, width: of the images, in pixels; by default what the network was made for.
        output_type: "pil", "np", "pt" or "latent".
        progress: show it.
        settings: as of `scorefusion.superpose`: temperature, bias, noise, correct, weights, lift, probes, times,
            first_sample, denoise, ...

    Returns:
        An `ImageSuperposition`: ``.images``; ``.x`` the latents ``(B, *event)`` in the last noise level, and of these
        ``.log_density (B, k)``; κ of every step, ``.weights (steps, B, k)``; ``.log_densities (steps + 1, B, k)``.
        Images are decoded from x̂₀, what the mixture with the last κ makes of the latents, at the price of one call.

    Every network is called once in a step, for all texts together.
    """
    networks = _networks_of(pipe)
    pipe = networks[0][0]
    schedule = settings.pop("schedule", None) or _schedule_of(pipe)
    if guidance_scale is not None and not callable(guidance_scale):
        guidance_scale = real("guidance_scale", guidance_scale)
    guided = guidance_scale is not None and guidance_scale != 1.0
    texts = _texts(prompts, "prompts")
    negative_prompt = _texts([negative_prompt], "negative_prompt")[0]
    num_images = whole("num_images", num_images, 1)
    _one_of("output_type", output_type, ("pil", "np", "pt", "latent"))
    if len(networks) > 1:
        texts = _each(prompts, len(networks), "prompts")
    elif not texts:
        raise ValueError("prompts must be one or more, got none")
    event = _event(pipe, height, width)
    pixels = event[1] * _per_latent(pipe), event[2] * _per_latent(pipe)
    conditional: list[Model] = []
    unconditional: list[Model] = []
    for i, (owner, call) in enumerate(networks):
        own = texts if len(networks) == 1 else [texts[i]]
        denoiser = _Denoiser(owner, call, [*own, negative_prompt] if guided else own, pixels)
        made = [Model(f, _kind_of(owner.scheduler), _schedule_of(owner)) for f in denoiser.functions()]
        conditional += made[: len(own)]
        unconditional += made[len(own) :]
    m = len(unconditional)
    models = [*conditional, *(unconditional if m < 2 else [Fusion(unconditional, [1 / m] * m, schedule)])]
    device = pipe._execution_device
    found = superposition.superpose(
        models,
        (num_images, *event),
        mode=mode,
        steps=steps,
        seed=seed,
        guidance_scale=guidance_scale if guided else None,
        like=torch.empty(
            0, device=device, dtype=torch.promote_types(torch.float32, _dtype_of(_network_of(pipe, "pipe")))
        ),
        schedule=schedule,
        trace=True,
        progress=progress,
        **settings,
    )
    latents = found.x
    if not settings.get("denoise"):
        times = settings.get("times")
        t = (
            max(model.t_min for model in models)
            if times is None or isinstance(times, str)
            else float(np.asarray(times)[-1])
        )
        latents = _denoised(models, found, t, guidance_scale if guided else None, schedule)
    images = _decoded(pipe, latents, output_type)
    pipe.maybe_free_model_hooks()
    return ImageSuperposition(**{field.name: getattr(found, field.name) for field in fields(found)}, images=images)


def _denoised(
    models: list[Model], found: superposition.Superposition, t: float, guidance_scale: Any, schedule: Schedule
) -> Any:
    """x̂₀ of the mixture with the last κ, guided."""
    if float(schedule.sigma(t)) == 0 or len(found.weights) == 0:
        return found.x
    kappa = np.asarray(_namespace.host(found.weights[-1]), np.float64)
    if guidance_scale is not None:
        w = float(guidance_scale(t) if callable(guidance_scale) else guidance_scale)
        kappa = np.concatenate([w * kappa, (1 - w) * kappa.sum(-1, keepdims=True)], -1)
    with torch.no_grad():
        return Fusion(models, lambda t: kappa, schedule).x0(found.x, t)


def _event(pipe: Any, height: int | None, width: int | None) -> tuple[int, int, int]:
    """(channels, height, width) of the latents."""
    config = _network_of(pipe, "pipe").config
    size = config.sample_size
    default = (size, size) if isinstance(size, int) else tuple(size)
    scale = _per_latent(pipe)
    for name, pixels in (("height", height), ("width", width)):
        if pixels is not None and whole(name, pixels, 1) % scale:
            raise ValueError(f"{name} must be a multiple of {scale}, got {pixels}")
    return (
        int(config.in_channels),
        default[0] if height is None else height // scale,
        default[1] if width is None else width // scale,
    )


def _per_latent(pipe: Any) -> int:
    """Pixels of one latent, in each direction."""
    return int(getattr(pipe, "vae_scale_factor", 1)) if getattr(pipe, "vae", None) is not None else 1


# ------------------------------------------------------------------------------------------------------------------
# Images and latents


def _processor(pipe: Any) -> Any:
    return getattr(pipe, "image_processor", None) or VaeImageProcessor(vae_scale_factor=1)


def _scaling(vae: Any) -> tuple[Any, Any]:
    """(a, b): latents = a z + b of what the VAE encodes; numbers, or one for each channel."""
    config = vae.config
    a = config.get("scaling_factor") or 1.0
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and deviation is not None:
        mean, deviation = (torch.tensor(v, device=vae.device).reshape(1, -1, 1, 1) for v in (mean, deviation))
        return a / deviation, -mean * a / deviation
    return a, -(config.get("shift_factor") or 0.0) * a


def _encoded_images(pipe: Any, images: Any, first: int, seed: int, batch_size: int) -> Any:
    """Latents ``(n, *event)`` of images, float32; noise of the VAE's is that of datum first, first + 1, ..."""
    if _namespace.is_array(images):
        if images.ndim != 4:
            raise ValueError(
                f"images must be (n, 3, height, width) or (n, height, width, 3), got {tuple(images.shape)}"
            )
        if str(images.dtype).endswith("uint8"):
            images = images / 255
    try:
        pixels = _processor(pipe).preprocess(images)
    except (TypeError, ValueError) as error:
        raise ValueError(f"images must be PIL images or arrays of them: {error}") from None
    vae = getattr(pipe, "vae", None)
    if vae is None:
        return pixels.to(pipe._execution_device, torch.float32)
    a, b = _scaling(vae)
    latents = []
    with torch.no_grad(), _in_float32(vae):
        for i in range(0, len(pixels), batch_size):
            encoded = vae.encode(pixels[i : i + batch_size].to(pipe._execution_device, vae.dtype))
            if hasattr(encoded, "latent_dist"):
                mean, deviation = encoded.latent_dist.mean.float(), encoded.latent_dist.std.float()
                z = mean + deviation * Noise(seed, _ENCODE, first + i).like(mean)
            else:
                z = encoded.latents.float()
            latents.append(a * z + b)
    return torch.cat(latents)


def _decoded(pipe: Any, latents: Any, output_type: str) -> Any:
    """Images of latents."""
    if output_type == "latent":
        return latents
    vae = getattr(pipe, "vae", None)
    image = latents
    if vae is not None:
        a, b = _scaling(vae)
        with torch.no_grad(), _in_float32(vae):
            image = vae.decode(((latents - b) / a).to(vae.dtype), return_dict=False)[0]
    flagged = None
    if getattr(pipe, "safety_checker", None) is not None:
        image, flagged = pipe.run_safety_checker(image, image.device, image.dtype)
    shown = None if flagged is None else [not flag for flag in flagged]
    return _processor(pipe).postprocess(image, output_type=output_type, do_denormalize=shown)


@contextlib.contextmanager
def _in_float32(vae: Any) -> Iterator[None]:
    """For VAEs that overflow in float16."""
    if vae.dtype != torch.float16 or not vae.config.get("force_upcast"):
        yield
        return
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(torch.float16)


# ------------------------------------------------------------------------------------------------------------------
# Learning the weights


def fit(
    pipelines: Any,
    images: Any,
    *,
    prompt: str | Sequence[str] = "",
    batch_size: int = 8,
    first_datum: int = 0,
    seed: int = 0,
    **settings: Any,
) -> Fit:
    """λ of the networks of k pipelines, learned from images: `scorefusion.fit` on the latents of the first one's VAE

    Args:
        pipelines: k of them (SD 1.x, 2.x, XL, 3, DDPM), or one whose network is a `FusedModel`. Schedulers may differ:
            networks are asked at the same log-SNR. VAEs must scale latents alike.
        images: what pipelines return: a list of PIL images, NumPy ``(n, height, width, 3)`` or torch
            ``(n, 3, height, width)`` in [0, 1] (or bytes); or an iterable of batches of such (a DataLoader; of a tuple
            the first entry), read once.
        prompt: what the networks are told; one for all, or k.
        batch_size: rows in each call of a network.
        first_datum: the index of the first image, for parts that are fitted apart and merged.
        seed: of t and ε, and of the noise that is part of what VAEs encode.
        settings: as of `scorefusion.fit`: schedule, t_range, draws, weighting, targets, bins, progress, checkpoint, ...

    Returns:
        A `Fit`, whose weights can be those of `fuse`, also by noise level: ``fuse(pipelines, fit.per_time())``.
    """
    networks = _networks_of(pipelines)
    first = networks[0][0]
    texts = _each_text(prompt, len(networks), "prompt")
    batch_size, first_datum = whole("batch_size", batch_size, 1), whole("first_datum", first_datum)
    seed = whole("seed", seed, 0, SEEDS)
    _check_same_latents([pipe for pipe, _ in networks])
    size = _event(first, None, None)
    pixels = size[1] * _per_latent(first), size[2] * _per_latent(first)
    models = []
    for (pipe, call), text in zip(networks, texts, strict=True):
        (f,) = _Denoiser(pipe, call, [text], pixels).functions()
        models.append(Model(f, _kind_of(pipe.scheduler), _schedule_of(pipe)))
    settings.setdefault("schedule", models[0].schedule)

    def encoded(batch: Any, i: int) -> Any:
        return _encoded_images(first, batch, i, seed, batch_size)

    data: Any
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError("images must be two or more, got none")
        if getattr(images[0], "ndim", 0) == 3:
            images = _stacked(images)
    if _namespace.is_array(images) or (isinstance(images, (list, tuple)) and hasattr(images[0], "convert")):  # PIL
        data = encoded(images, first_datum)
    elif isinstance(images, Iterable) and not isinstance(images, str):
        data = _Batches(images, encoded, first_datum)
    else:
        raise TypeError(
            f"images must be an array, a list of images, or an iterable of batches, got {_described(images)}"
        )
    found = fitting.fit(models, data, batch_size=batch_size, first_datum=first_datum, seed=seed, **settings)
    for pipe in {id(pipe): pipe for pipe, _ in networks}.values():
        pipe.maybe_free_model_hooks()
    return found


def _stacked(images: Sequence[Any]) -> Any:
    try:
        return _namespace.namespace(images[0]).stack(list(images))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"images must be of one shape: {error}") from None


class _Batches:
    """Batches of images as batches of latents, each time it is asked for them."""

    def __init__(self, batches: Iterable[Any], encoded: Callable[[Any, int], Any], first: int) -> None:
        self._batches, self._encoded, self._first = batches, encoded, first

    def __iter__(self) -> Iterator[Any]:
        i = self._first
        for batch in self._batches:
            images = batch[0] if isinstance(batch, (tuple, list)) and _namespace.is_array(batch[0]) else batch
            latents = self._encoded(images, i)
            i += len(latents)
            yield latents


def _check_same_latents(pipes: Sequence[Any]) -> None:
    vaes = [getattr(pipe, "vae", None) for pipe in pipes]
    names = ("scaling_factor", "shift_factor", "latent_channels")
    kinds = [None if vae is None else {name: vae.config.get(name) for name in names} for vae in vaes]
    if any(kind != kinds[0] for kind in kinds):
        raise ValueError(f"pipelines must have latents of one kind, got VAEs of {kinds}")
