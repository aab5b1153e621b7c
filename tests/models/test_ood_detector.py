"""The out-of-distribution detector: what the probe learns, and that it is measured on what it was not trained on."""

import numpy as np
import pytest
import torch

from qformer_viz.domains.emoji import ood_detector
from qformer_viz.domains.emoji.ood_images import OOD_IMAGES

WIDTH = 12


def points(seed, count, shift=0.0):
    return torch.randn(count, 2 * WIDTH, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.fixture(scope="module")
def probe():
    return ood_detector.fit(points(0, 600), points(1, 60, 2.0), points(2, 2000))


def test_scenes_pass_at_the_stated_rate_and_other_images_do_not(probe):
    alarms = (probe.scores(points(3, 4000)) > probe.threshold).float().mean()
    assert alarms == pytest.approx(ood_detector.FALSE_ALARMS, abs=0.008)
    assert (probe.scores(points(4, 200, 2.0)) > probe.threshold).float().mean() > 0.95


def test_one_image_is_judged_by_mean_and_spread_of_its_patches(probe):
    features = torch.randn(1, 257, WIDTH, generator=torch.Generator().manual_seed(5))
    found = probe(features)
    patches = features[0, 1:]
    expected = torch.cat([patches.mean(0), patches.std(0)]) @ probe.weight + probe.bias
    assert found.score == pytest.approx(float(expected), abs=1e-4)
    assert probe(features[0]) == found
    features[0, 0] = 99.0  # CLS has no say
    assert probe(features) == found
    with pytest.raises(ValueError, match="one image"):
        probe(torch.zeros(2, 257, WIDTH))


def test_features_that_are_not_finite_are_out_of_distribution(probe):
    assert not probe(torch.full((257, WIDTH), float("nan"))).in_distribution


def test_saved_and_loaded_it_judges_the_same(probe, tmp_path):
    ood_detector.save_ood_detector(probe, tmp_path, {"any": 1})
    loaded = ood_detector.load_ood_detector(tmp_path)
    assert loaded.threshold == probe.threshold
    assert torch.equal(loaded.weight, probe.weight) and torch.equal(loaded.bias, probe.bias)


def test_no_kind_is_measured_by_a_probe_that_was_trained_on_it(monkeypatch):
    """Every kind has a channel of its own: kinds of the training are detected, the one left out is not."""
    kinds = list(OOD_IMAGES)

    def stamp(index):
        def draw(rng):
            return index, rng.standard_normal((257, WIDTH))

        return draw

    monkeypatch.setattr(ood_detector, "OOD_IMAGES", {name: stamp(i) for i, name in enumerate(kinds)})
    monkeypatch.setattr(ood_detector, "random_scene", lambda rng: rng)
    monkeypatch.setattr(
        ood_detector,
        "render",
        lambda rng: type("Drawn", (), {"image": (None, rng.standard_normal((257, WIDTH)))}),
    )
    monkeypatch.setattr(
        ood_detector, "photograph_crops", lambda: [stamp(0)(np.random.default_rng(1)) for _ in range(5)]
    )

    def features_of(images):
        out = torch.tensor(np.stack([noise for _, noise in images])).float()
        for row, (index, _) in zip(out, images, strict=True):
            if index is not None:
                row[:, index] += 0.6
        return out

    probe, found = ood_detector.measure(features_of, fitting=200, fresh=200, outside=30)
    left_out = [found["detected"][name] for name in kinds]
    assert np.mean(left_out) < 0.3, found
    assert found["detected"]["photographs"] == 1.0
    assert found["false_alarms"] < 0.06
    assert probe.weight.argmax() < len(kinds)


def test_photographs_come_with_their_licences():
    told = (ood_detector.PHOTOGRAPHS / "LICENSES.md").read_text()
    files = sorted(ood_detector.PHOTOGRAPHS.glob("*.jpg"))
    assert len(files) >= 12 and all(f"`{file.name}`" in told for file in files)
    pictures = ood_detector.photograph_crops()
    assert len(pictures) == 5 * len(files) and {picture.size for picture in pictures} == {(224, 224)}
