import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models import resnet18 as torchvision_resnet18

import engramlib as el
from engramlib.lab.data import digits
from engramlib.lab.models import ResNet, conv_autoencoder, from_torchvision, resnet, resnet18, vit, wae
from engramlib.lab.models.autoencoder import mmd
from engramlib.lab.training import accuracy, train_classifier

CLASSIFIERS = {
    "resnet": (lambda seed=0: resnet((8, 16), n_classes=7, seed=seed), (3, 16, 16), 16),
    "resnet, grey, deeper": (lambda seed=0: resnet((4, 8, 12), (2, 1, 1), in_channels=1, seed=seed), (1, 15, 12), 12),
    "vit": (lambda seed=0: vit(n_classes=7, dim=32, depth=2, seed=seed), (3, 16, 16), 32),
    "vit, grey": (
        lambda seed=0: vit(image_size=8, patch_size=2, dim=24, depth=1, in_channels=1, seed=seed),
        (1, 8, 8),
        24,
    ),
}
AUTOENCODERS = {
    "mnist": (lambda seed=0: conv_autoencoder(seed=seed), (1, 28, 28), 64),
    "digits": (lambda seed=0: conv_autoencoder((1, 8, 8), (4, 6, 5), seed=seed), (1, 8, 8), 5),
    "four layers, odd sides": (lambda seed=0: conv_autoencoder((3, 21, 26), (4, 6, 8, 9), seed=seed), (3, 21, 26), 9),
    "wae": (lambda seed=0: wae((3, 32, 32), (4, 6, 8), latent=10, seed=seed), (3, 32, 32), 10),
    "wae, odd sides": (lambda seed=0: wae((1, 13, 10), (4, 6), latent=3, seed=seed), (1, 13, 10), 3),
}
ALL = CLASSIFIERS | AUTOENCODERS


def pixels(shape, n=4, seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_have_features_and_one_linear_head(name):
    build, shape, width = CLASSIFIERS[name]
    model, x = build().eval(), pixels(shape)
    nn.init.normal_(model.fc.weight)
    features = model.features(x)
    assert features.shape == (4, width) and type(model.fc) is nn.Linear
    assert torch.equal(model(x), model.fc(features)) and model(x).shape == (4, model.fc.out_features)
    assert [n for n, m in model.named_modules() if m is model.fc] == ["fc"]
    assert {n for n in model.state_dict() if n.startswith(("fc", "head"))} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoders_return_the_shape_they_got(name):
    build, shape, code = AUTOENCODERS[name]
    model, x = build(), pixels(shape)
    assert model.encode(x).shape == (4, code)
    assert model(x).shape == x.shape and torch.equal(model(x), model.decode(model.encode(x)))


@pytest.mark.parametrize("name", ALL)
def test_weights_come_from_the_seed_and_torchs_random_state_stays(name):
    build = ALL[name][0]
    state = torch.random.get_rng_state()
    one, same, other = build(), build(), build(seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True))
    drawn = [n for n, p in one.named_parameters() if p.ndim > 1 and p.std() > 0]
    assert drawn and not any(torch.equal(one.get_parameter(n), other.get_parameter(n)) for n in drawn)


@pytest.mark.parametrize("name", ALL)
def test_every_layer_with_a_matrix_is_reached(name):
    """Collect, extract and ablate see each linear map of each model; what they do not see is said in the book."""
    build, shape, _ = ALL[name]
    model, x = build(), pixels(shape, n=12)
    y = torch.arange(12) % 2
    matrices = {
        f"{n}.{which}" if n else which
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.MultiheadAttention)
        for which, p in m.named_parameters(recurse=False)
        if p.ndim > 1
    }
    moments = el.collect_by_concept(model, [(x, y)], lambda batch: batch[1])
    engrams = el.extract_all(model, moments, rcond=1e-6)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    after = dict(el.ablate(model, engrams[0]).named_parameters())
    still = {n for n in matrices if torch.equal(before[n], after[n]) and before[n].any()}
    assert not still, f"an edit leaves {still} as they were"


# ---------------------------------------------------------------------- residual networks


def as_torchvision(n_classes):
    """torchvision's ResNet-18 with the stem that CIFAR papers use."""
    model = torchvision_resnet18(num_classes=n_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def test_resnet18_is_torchvisions():
    theirs, ours = as_torchvision(10).eval(), resnet18(n_classes=10).eval()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == 11_173_962
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):  # other than the start, so that a missing copy shows
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert set(missing) == {"mean", "std"} and not unexpected
    x = pixels((3, 32, 32), n=3)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs((x - 0.5) / 0.25), atol=1e-5)


def test_resnet_stages():
    model = resnet((8, 16, 24), (1, 2, 1))
    assert isinstance(model, ResNet) and [len(getattr(model, s)) for s in model.stages] == [1, 2, 1]
    sizes = {}
    for stage in model.stages:
        getattr(model, stage).register_forward_hook(lambda m, i, o, s=stage: sizes.update({s: tuple(o.shape[1:])}))
    model(pixels((3, 16, 16)))
    assert sizes == {"layer1": (8, 16, 16), "layer2": (16, 8, 8), "layer3": (24, 4, 4)}
    for widths, blocks in (((), 1), ((8, 0), 1), ((8, 16), (1,)), ((8,), 0)):
        with pytest.raises(ValueError, match="resnet: widths and blocks"):
            resnet(widths, blocks)


# ---------------------------------------------------------------------- vision transformers


def test_a_torchvision_transformer_is_taken_over():
    torch.manual_seed(0)
    theirs = VisionTransformer(
        image_size=12, patch_size=4, num_layers=2, num_heads=4, hidden_dim=16, mlp_dim=24, num_classes=5
    ).eval()
    nn.init.normal_(theirs.heads.head.weight)
    state = torch.random.get_rng_state()
    ours = from_torchvision(theirs)
    assert torch.equal(state, torch.random.get_rng_state()) and not ours.training
    x = pixels((3, 12, 12))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = theirs((x - mean[:, None, None]) / std[:, None, None])
        assert torch.allclose(ours(x), expected, atol=1e-5) and expected.std() > 0.1
    ours.fc.weight.data.zero_()
    assert theirs.heads.head.weight.any()  # a copy
    with pytest.raises(ValueError, match="VisionTransformer"):
        from_torchvision(nn.Linear(2, 2))


def test_vit_names_bad_sizes():
    with pytest.raises(ValueError, match="patch_size must divide image_size; got 5 and 16"):
        vit(patch_size=5)
    with pytest.raises(ValueError, match="heads must divide dim; got 3 and 64"):
        vit(heads=3)
    with pytest.raises(ValueError, match="depth must be a positive integer, got 0"):
        vit(depth=0)


def test_a_small_vit_learns_digits():
    data = digits()
    model = vit(image_size=8, patch_size=4, in_channels=1, depth=2)
    train_classifier(model, data, epochs=8, lr=2e-3, batch_size=32, seed=0)
    assert accuracy(model, data.test.x, data.test.y) > 0.9  # a linear model is at .95, chance at .1


# ---------------------------------------------------------------------- autoencoders


def test_autoencoder_layers_are_named_by_depth():
    model = conv_autoencoder((1, 28, 28))
    assert [n for n, _ in model.named_children()] == ["enc1", "enc2", "enc3", "dec1", "dec2", "dec3"]
    assert model.enc3.kernel_size == model.dec1.kernel_size == (7, 7)
    names = [n for n, _ in wae().named_children()]
    assert names == ["enc1", "enc2", "enc3", "to_code", "from_code", "dec1", "dec2", "dec3"]
    for layer, back in (("enc1", "dec3"), ("enc2", "dec2"), ("enc3", "dec1")):
        assert getattr(model, layer).weight.shape == getattr(model, back).weight.shape


def test_autoencoders_start_with_signals_of_the_right_size():
    """He's start keeps the second moment of the pre-activations on the way down; the first pictures are faint."""
    model = conv_autoencoder((1, 32, 32), (64, 128, 64))
    sizes = {}
    for name, layer in model.named_children():
        layer.register_forward_hook(lambda m, i, o, n=name: sizes.update({n: float(o.detach().square().mean())}))
    model(torch.randn(16, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    size = list(sizes.values())
    assert all(0.6 < b / a < 1.5 for a, b in zip(size[:2], size[1:3], strict=True)), sizes
    # the code is linear, so dec1 meets twice what a ReLU leaves; on the way up each layer has .4² of He's variance
    assert 0.7 < size[3] / size[2] / (2 * 0.16) < 1.4, sizes
    assert all(0.7 < b / a / 0.16 < 1.4 for a, b in zip(size[3:], size[4:], strict=False)), sizes


def test_mmd_by_hand_and_its_meaning():
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [5.0]])
    scales = [2 * s for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)]

    def k(gap):
        return sum(c / (c + gap**2) for c in scales)

    expected = k(1) + k(2) - 2 * (k(3) + k(5) + k(2) + k(4)) / 4
    assert float(mmd(a, b)) == pytest.approx(expected, rel=1e-6)
    g = torch.Generator().manual_seed(0)
    draw = lambda n: torch.randn(n, 8, generator=g)  # noqa: E731
    same = torch.stack([mmd(draw(64), draw(64)) for _ in range(100)])
    assert abs(same.mean()) < 3 * same.std() / 10 < 0.1  # unbiased: zero on average, on either side of it
    assert same.min() < 0 < same.max()
    assert float(mmd(draw(400) + 1, draw(400))) > 10 * float(same.std())
    assert float(mmd(draw(400) * 0.3, draw(400))) > 10 * float(same.std())
    with pytest.raises(ValueError, match="mmd"):
        mmd(torch.zeros(1, 3), torch.zeros(4, 3))


def test_mmd_has_a_gradient_where_codes_are_equal():
    codes = torch.zeros(6, 4, requires_grad=True)
    mmd(codes, torch.randn(6, 4, generator=torch.Generator().manual_seed(0))).backward()
    assert torch.isfinite(codes.grad).all() and codes.grad.any()


def test_wae_penalty_pulls_codes_to_the_prior():
    model = wae((1, 8, 8), (4,), latent=3)
    codes = (1.5 + 0.1 * torch.randn(64, 3, generator=torch.Generator().manual_seed(0))).requires_grad_()
    optimiser = torch.optim.Adam([codes], lr=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(300):
            optimiser.zero_grad()
            model.penalty(codes).backward()
            optimiser.step()
    assert codes.mean(0).abs().max() < 0.4 and (codes.std(0) - 1).abs().max() < 0.4
    prior = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model.penalty(codes, prior), mmd(codes, prior))


def test_autoencoders_name_bad_arguments():
    with pytest.raises(ValueError, match="conv_autoencoder: image_shape"):
        conv_autoencoder((28, 28))
    with pytest.raises(ValueError, match="conv_autoencoder: widths needs at least 2"):
        conv_autoencoder((1, 8, 8), (4,))
    with pytest.raises(ValueError, match="wae: latent"):
        wae(latent=0)
    with pytest.raises(ValueError, match="wae: penalty_weight"):
        wae(penalty_weight=-1.0)


@pytest.mark.parametrize("build", [conv_autoencoder, wae])
def test_a_decoder_at_zero_draws_the_mean(build):
    image = pixels((1, 8, 8), n=1)[0]
    for mean in (image, 0.25):
        model = build((1, 8, 8), (4, 6), mean=mean)
        x, moved = pixels((1, 8, 8)), build((1, 8, 8), (4, 6), mean=0.0)
        moved.load_state_dict({k: v for k, v in model.state_dict().items() if k != "mean"}, strict=False)
        assert torch.allclose(model(x), moved(x - mean) + mean, atol=1e-6)
        last = model.get_submodule(model.decoder[-1])
        last.weight.data.zero_()
        assert torch.equal(model(x), torch.as_tensor(mean).expand_as(x))
    with pytest.raises(ValueError, match="mean must be a number or an image of shape"):
        build((1, 8, 8), (4, 6), mean=torch.zeros(1, 8, 9))
