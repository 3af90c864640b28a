"""What latents are good for, in numbers: recognition, denoising, and telling strange images from usual ones."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from skimage.restoration import denoise_nl_means
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from calotype.datasets import Split
from calotype.explore.study import Study, TextbookStudy
from calotype.textbook.model import Images

PEAK = 255
NEIGHBOURS = 5
MOST_ITERATIONS, TOLERANCE = 1000, 1e-3
NOISE_SIGMAS = (25, 50)
TUNED_ON = 60
DENOISED = 1000
MEDIAN_SIDES = (1, 2, 3, 5)
NL_PATCHES, NL_DISTANCES, NL_STRENGTHS = (3, 5, 7), (7, 11, 15), (0.2, 0.4, 0.6, 0.8)

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Recognition:
    """Share of test images whose label is told from some numbers: by a linear classifier, and by nearest neighbours."""

    source: str
    numbers: int
    linear: float
    neighbours: float


def recognise(study: Study, train: Split, test: Split) -> Iterator[Recognition]:
    """Labels from latents, from all that the encoder says, from as many principal components, and from pixels.

    The linear classifier is a logistic regression, to which all numbers but pixels come at equal variance. Nearest
    neighbours see numbers as they are.
    """
    pixels = [part.images.reshape(len(part), -1).astype(np.float32) / PEAK for part in (train, test)]
    latents = [study.analyse(part.images) for part in (train, test)]
    posterior = [study.posterior(part.images) for part in (train, test)]
    components = PCA(min(latents[0].shape[1], *pixels[0].shape), random_state=0).fit(pixels[0])
    sources = {
        "latents": latents,
        "posterior's means and widths": posterior,
        "PCA": [components.transform(part) for part in pixels],
        "pixels": pixels,
    }
    for source, (seen, new) in sources.items():
        if seen is None or new is None:
            continue
        linear = LogisticRegression(max_iter=MOST_ITERATIONS, tol=TOLERANCE)
        classifier = linear if source == "pixels" else make_pipeline(StandardScaler(), linear)
        near = KNeighborsClassifier(NEIGHBOURS).fit(seen, train.labels)
        found = classifier.fit(seen, train.labels)
        yield Recognition(source, seen.shape[1], found.score(new, test.labels), near.score(new, test.labels))


@dataclass(frozen=True)
class Anomaly:
    """How well a score tells images of another set from the model's own: larger is stranger.

    Attributes:
        score: What is counted.
        usual: Of images of the model's kind, (n,).
        strange: Of the others, (m,).
    """

    score: str
    usual: Floats
    strange: Floats

    @property
    def auroc(self) -> float:
        """How often a strange image has a higher score than a usual one."""
        labels = np.repeat([0, 1], [len(self.usual), len(self.strange)])
        return float(roc_auc_score(labels, np.concatenate([self.usual, self.strange])))


def anomalies(study: Study, usual: Images, strange: Images) -> Iterator[Anomaly]:
    """Scores: minus the ELBO, the error of the restored image, and, without any model, the bytes that deflate takes."""

    def elbo(images: Images) -> Floats | None:
        found = study.bits(images, seed=0)
        return None if found is None else found.total

    def error(images: Images) -> Floats:
        return np.square(study.restore(images).astype(np.float32) - images).mean((1, 2, 3))

    def deflated(images: Images) -> Floats:
        return np.array([float(len(zlib.compress(image.tobytes(), 9))) for image in images])

    scores: dict[str, Callable[[Images], Floats | None]] = {
        "minus the ELBO, bits": elbo,
        "squared error": error,
        "bytes by deflate": deflated,
    }
    for name, score in scores.items():
        ours, theirs = score(usual), score(strange)
        if ours is not None and theirs is not None:
            yield Anomaly(name, ours, theirs)


@dataclass(frozen=True)
class Denoised:
    """PSNR over all pixels of noisy images after a method, and how much it gained."""

    sigma: int
    method: str
    psnr_db: float
    gain_db: float


def with_noise(images: Images, sigma: float, seed: int) -> Images:
    """Images with Gaussian noise, rounded and cut to 0..255."""
    noise = np.random.default_rng(seed).normal(0, sigma, images.shape)
    return np.floor(np.clip(images + noise, 0, PEAK) + 0.5).astype(np.uint8)


def _psnr_db(a: Images, b: Images) -> float:
    return 10 * math.log10(PEAK**2 / max(float(np.mean(np.square(a.astype(np.float64) - b))), 1e-9))


@dataclass(frozen=True)
class _Filter:
    """A filter with its settings."""

    name: str
    apply: Callable[[Images], Images]


def _medians() -> Iterator[_Filter]:
    for side in MEDIAN_SIDES:
        yield _Filter(f"median filter, {side}x{side}", partial(median_filter, size=(1, side, side, 1)))


def _non_local_means(sigma: float) -> Iterator[_Filter]:
    for patch, distance, strength in product(NL_PATCHES, NL_DISTANCES, NL_STRENGTHS):
        name = f"non-local means, patches of {patch}, up to {distance} px away, h {strength:g} sigma"
        settings = {"patch_size": patch, "patch_distance": distance, "h": strength * sigma / PEAK}
        yield _Filter(name, partial(_non_locally, sigma=sigma / PEAK, **settings))


def _non_locally(images: Images, **settings: float) -> Images:
    """Images (n, h, w, c) after non-local means (Buades, Coll and Morel 2005), each by itself."""
    restored = [denoise_nl_means(image / PEAK, channel_axis=-1, **settings) for image in images]  # pyright: ignore[reportArgumentType]
    return np.floor(np.clip(restored, 0, 1).reshape(images.shape) * PEAK + 0.5).astype(np.uint8)


def _best(filters: Iterator[_Filter], noisy: Images, clean: Images) -> _Filter:
    return max(filters, key=lambda f: _psnr_db(f.apply(noisy), clean))


def denoise(study: TextbookStudy, tune: Images, test: Images) -> Iterator[Denoised]:
    """What the model, a median filter and non-local means make of noisy images.

    Args:
        study: The model.
        tune: Images of which the first choose the filters' settings, by PSNR.
        test: Images of which the first are measured.
    """
    clean, known = test[:DENOISED], tune[:TUNED_ON]
    for sigma in NOISE_SIGMAS:
        noisy, tried = with_noise(clean, sigma, 0), with_noise(known, sigma, 1)
        before = _psnr_db(noisy, clean)
        model = _Filter("the model", study.restore)
        chosen = [_best(filters, tried, known) for filters in (_medians(), _non_local_means(sigma))]
        yield Denoised(sigma, "as it is", before, 0.0)
        for method in (model, *chosen):
            after = _psnr_db(method.apply(noisy), clean)
            yield Denoised(sigma, method.name, after, after - before)
