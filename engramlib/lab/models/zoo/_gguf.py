"""A Llama in llama.cpp's file format, read once: weights to float32, its byte pairs to a tokenizer.

transformers can read such files too (`from_pretrained(folder, gguf_file=...)`), and wants accelerate for it; what a
Llama needs is a table of names and one permutation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engramlib._progress import track
from engramlib.lab.models.tokenizers import language_extra

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # llama.cpp's type of a special token


def read(path: str | Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """(model in float32 and eval mode, tokenizer) of a GGUF file that holds a Llama with byte-level byte pairs.

    Raises `ValueError` for another architecture or tokenizer, `ImportError` where the package gguf is missing.
    Takes about 15 seconds for 135 million parameters, most of them for the vocabulary.
    """
    gguf = _package()
    transformers = language_extra("transformers")
    file = gguf.GGUFReader(str(path))
    facts = {name: field for name, field in file.fields.items()}

    def fact(name: str, default: Any = None) -> Any:
        if name in facts:
            return facts[name].contents()
        if default is None:
            raise ValueError(f"{path}: the file says nothing about {name}.")
        return default

    if (kind := fact("general.architecture")) != "llama":
        raise ValueError(f"{path}: a Llama was expected, this is a {kind}.")
    heads = fact("llama.attention.head_count")
    kv_heads = fact("llama.attention.head_count_kv", heads)
    tensors = {tensor.name: tensor for tensor in file.tensors}
    tokens = fact("tokenizer.ggml.tokens")
    ends = {name: fact(f"tokenizer.ggml.{name}_token_id", -1) for name in ("bos", "eos", "padding")}
    config = transformers.LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=fact("llama.embedding_length"),
        intermediate_size=fact("llama.feed_forward_length"),
        num_hidden_layers=fact("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=fact("llama.context_length"),
        rms_norm_eps=fact("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=fact("llama.rope.freq_base", 10000.0),
        tie_word_embeddings="output.weight" not in tensors,
        **{f"{ours}_token_id": None if ends[theirs] < 0 else ends[theirs] for ours, theirs in _ENDS.items()},
    )
    model = transformers.LlamaForCausalLM(config).float()
    weights = dict(_weights(gguf, tensors, heads, kv_heads))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if tied := config.tie_word_embeddings:
        model.tie_weights()
    if unexpected or set(missing) - ({"lm_head.weight"} if tied else set()):
        raise ValueError(f"{path} does not fit its own sizes: missing {missing}, unexpected {unexpected}.")
    return model.eval(), _tokenizer(fact, tokens, ends, config.max_position_embeddings)


_ENDS = {"bos": "bos", "eos": "eos", "pad": "padding"}  # transformers' names -> GGUF's


def _package() -> Any:
    try:
        import gguf  # reads llama.cpp's files (numpy, pyyaml, requests; MIT): its decoders of packed weights are theirs
    except ImportError as error:
        raise ImportError(
            "gguf is missing: reading 4-bit weights the first time needs `pip install gguf`, a small package; the copy"
            " that is kept afterwards does not."
        ) from error
    return gguf


def _weights(gguf: Any, tensors: dict[str, Any], heads: int, kv_heads: int) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in track(tensors.items(), desc="reading weights", total=len(tensors)):
        array = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        parts = name.split(".")  # blk.7.attn_q.weight, or output_norm.weight
        if parts[-2] not in NAMES:
            continue  # frequencies of the rotation, which are computed
        weight = array.reshape(tuple(int(n) for n in reversed(tensor.shape))).float()
        if parts[-2] in ("attn_q", "attn_k"):
            weight = _unpermuted(weight, heads if parts[-2] == "attn_q" else kv_heads)
        where = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
        yield f"{where}{NAMES[parts[-2]]}.{parts[-1]}", weight


def _unpermuted(weight: Tensor, heads: int) -> Tensor:
    """llama.cpp rotates neighbouring pairs of a head, transformers its two halves: put the rows back."""
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def _tokenizer(fact: Any, tokens: list[str], ends: dict[str, int], context: int) -> PreTrainedTokenizerFast:
    kit = language_extra("tokenizers")
    if fact("tokenizer.ggml.model") != "gpt2":
        raise ValueError(f"a byte-level tokenizer was expected, this is {fact('tokenizer.ggml.model')}.")
    merges = [tuple(pair.split(" ")) for pair in fact("tokenizer.ggml.merges")]
    made = kit.Tokenizer(kit.models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    steps = [kit.pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if fact("tokenizer.ggml.pre", "gpt-2") == "smollm":
        steps.insert(0, kit.pre_tokenizers.Digits(individual_digits=True))
    made.pre_tokenizer = kit.pre_tokenizers.Sequence(steps)
    made.decoder = kit.decoders.ByteLevel()
    types = fact("tokenizer.ggml.token_type")
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    made.add_special_tokens([kit.AddedToken(token, special=True, normalized=False) for token in special])
    named = {f"{ours}_token": tokens[ends[theirs]] for ours, theirs in _ENDS.items() if ends[theirs] >= 0}
    template = fact("tokenizer.chat_template", "none")
    return language_extra("transformers").PreTrainedTokenizerFast(
        tokenizer_object=made,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=context,
        chat_template=None if template == "none" else template,
        **named,
    )
