"""Layers that are found, so that nobody passes over them in silence, and refused, with the reason and what to do."""

from __future__ import annotations

import re
from abc import abstractmethod

import torch
from torch import Tensor, nn

from engramlib._experts import experts, is_experts
from engramlib.kinds import LayerKind


class RefusedKind(LayerKind[nn.Module]):
    """A type of layer whose weights cannot be read as a matrix, or whose edit would be lost.

    Attributes:
        covers: its submodules are part of what is refused: they are no layers of their own.
    """

    covers: bool = False

    @abstractmethod
    def refuses(self, module: nn.Module) -> str:
        """Why, and what to do."""

    def columns(self, module: nn.Module, x: Tensor) -> Tensor:
        raise TypeError(self.refuses(module))

    def matrix(self, module: nn.Module, weight: Tensor) -> Tensor:
        raise TypeError(self.refuses(module))

    def weight(self, module: nn.Module, matrix: Tensor) -> Tensor:
        raise TypeError(self.refuses(module))

    def outputs(self, module: nn.Module, z: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
        raise TypeError(self.refuses(module))


class AdapterKind(RefusedKind):
    """A layer inside an adapter (LoRA, DoRA, IA³, ...): its W is made of several matrices, and stored nowhere."""

    covers = True
    classes = ("BaseTunerLayer", "AuxiliaryTrainingWrapper", "ModulesToSaveWrapper")  # PEFT's

    def matches(self, module: nn.Module) -> bool:
        if any(c.__name__ in self.classes for c in type(module).__mro__):
            return True
        # loralib and its likes: a layer with low-rank factors beside its weight
        return any(
            re.match(r"(lora|ia3|vera|hada|oft|boft)_", name) for name in (*module._parameters, *module._modules)
        )

    def refuses(self, module: nn.Module) -> str:
        return (
            f"it belongs to an adapter ({type(module).__name__}), which computes its weight from several matrices;"
            " merge it first (PEFT: model = model.merge_and_unload(); loralib: merge, and load into plain layers), edit"
            " the merged model, or choose other layers with `layers`"
        )


class ScriptedKind(RefusedKind):
    """A layer that ``torch.jit`` compiled, alone or in a block: its code calls no hooks and reads copies of weights."""

    names = ("Linear", "Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, torch.jit.ScriptModule) and getattr(module, "original_name", "") in self.names

    def refuses(self, module: nn.Module) -> str:
        return "torch.jit compiled it (script or trace); use the model as it was before, and compile the edited one"


class UnknownExpertsKind(RefusedKind):
    """Fused experts of a layout that is not known: found, so that they are not passed over in silence, and refused."""

    def matches(self, module: nn.Module) -> bool:
        return is_experts(module) and not experts(module)

    def refuses(self, module: nn.Module) -> str:
        return (
            f"{type(module).__name__} keeps its experts' weights in a layout that is not known here; choose the other"
            ' layers with `layers`, for instance layers=["q_proj", "k_proj", "v_proj", "o_proj"]'
        )


class QuantisedKind(RefusedKind):
    """Layers with quantised weights, of whatever library: found, so that they are not passed over, and refused."""

    # Where their classes live. The weight may look like floating-point numbers there (a tensor subclass, a method).
    libraries = ("bitsandbytes", "auto_gptq", "gptqmodel", "awq", "hqq", "eetq", "aqlm", "quanto", "torchao")
    modules = ("optimum.quanto.", "torch.ao.nn.quantized.", "torch.nn.quantized.", "torch.ao.nn.intrinsic.quantized.")

    def matches(self, module: nn.Module) -> bool:
        if isinstance(module, nn.Embedding) or "Embedding" in type(module).__name__:
            return False
        homes = [f"{c.__module__}." for c in type(module).__mro__]
        if any(home.partition(".")[0] in self.libraries or home.startswith(self.modules) for home in homes):
            # Only what has a weight of its own: these libraries also have activations, and containers.
            return any(hasattr(module, name) for name in ("weight", "_packed_params", "qweight", "W_q"))
        own = {**module._parameters, **module._buffers}
        weight = own.get("weight")
        if weight is not None and type(weight.data).__module__.partition(".")[0] in self.libraries:
            return True
        # Elsewhere: called a linear layer, and what it stores are codes.
        codes = any(t is not None and t.ndim >= 2 and not holds_floats(t) for t in own.values())
        return codes and any(re.search(r"Linear(_[A-Z]+)?$", c.__name__) for c in type(module).__mro__)

    def refuses(self, module: nn.Module) -> str:
        name = f"{type(module).__module__.partition('.')[0]}'s {type(module).__name__}"
        return (
            f"its weight is quantised ({name}), and an edit would be lost in the rounding; load the model in bf16 or"
            " float32 (no quantization_config), edit it, and quantise the edited model"
        )


def holds_floats(tensor: Tensor) -> bool:
    """Whether the numbers of ``tensor`` are what they say, and not codes (integers, 8-bit floats with a scale)."""
    return (tensor.is_floating_point() or tensor.is_complex()) and tensor.dtype.itemsize >= 2


def refused_weight(weight: Tensor) -> str | None:
    """Why a stored weight cannot be read and edited in place; None = it can."""
    if isinstance(weight, nn.parameter.UninitializedParameter):
        return "it has no weight yet (a lazy layer): run the model once first"
    if type(weight).__name__ == "DTensor" or type(weight.data).__name__ == "DTensor":
        return "its weight is sharded over processes (DTensor): gather the full weights, edit them, and shard again"
    if hasattr(weight, "ds_id") or (not weight.numel() and hasattr(weight, "ds_shape")):
        return "its weight is partitioned by DeepSpeed: gather it (deepspeed.zero.GatheredParameters) or load it whole"
    if weight.device.type == "meta":
        return (
            "its weight is not in memory (device meta: not loaded, or offloaded by accelerate to the CPU or to disk),"
            " so an edit would be lost; load the model without offloading, for instance device_map=None or"
            ' device_map="cpu"'
        )
    if weight.is_inference():
        return "it was made in torch.inference_mode, which forbids changing it; make or load the model outside"
    if any(step == 0 and n > 1 for n, step in zip(weight.shape, weight.stride(), strict=True)):
        return "its weight is an expanded tensor, several entries of which are one number; store a copy (clone) of it"
    if weight.is_complex():
        return f"its weight is complex ({weight.dtype}), and second moments here are those of real columns"
    if not holds_floats(weight):
        return f"its weight is quantised ({weight.dtype}): load the model in bf16 or float32"
    return None
