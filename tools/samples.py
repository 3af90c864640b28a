"""How real a model's samples look: sharpness, a classifier's confidence, and the Fréchet distance of its features.

    python tools/samples.py mnist conv-vae.calomodel vae-gan.calomodel

Three numbers for as many samples as there are test images, drawn from the coder's tables and, of a VAE, from its prior;
and for the test images restored at the finest step:

- sharpness: the variance of the Laplacian, the mean over images;
- confidence: the largest probability that a classifier gives any class, the mean over images;
- Fréchet distance: between Gaussians fitted to the classifier's hidden units, for these images and for training images
  (Heusel et al. 2017, with a classifier of the data itself in place of Inception).

The classifier is a network of one hidden layer, trained on the training images and their labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.ndimage import laplace
from sklearn.neural_network import MLPClassifier

from calotype import datasets, library
from calotype.datasets import Dataset, Images, Split
from calotype.learn.textbook.config import CONV_VAE, DENSE_VAE, VAE_GAN
from calotype.markdown import table
from calotype.textbook.chunk import pack_images, unpack_images
from calotype.textbook.model import DECODER, Model, bundle_of
from calotype.textbook.sample import sample

HIDDEN, SEED = 128, 1
FINEST = 255
HEAD = ("images", "sharpness", "confidence", "Fréchet distance")

Floats = NDArray[np.float64]


def sharpness(images: Images) -> float:
    """The variance of the Laplacian of pixels in [0, 1], the mean over images (n, h, w, c)."""
    edges = laplace(images / 255, axes=(1, 2))
    return float(edges.reshape(len(images), -1).var(1).mean())


def frechet(a: Floats, b: Floats) -> float:
    """The squared Fréchet distance of Gaussians that are fitted to features (n, d)."""
    one, other = np.cov(a.T), np.cov(b.T)
    shared = np.sqrt(np.linalg.eigvals(one @ other).real.clip(0)).sum()  # the trace of the product's square root
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(one) + np.trace(other) - 2 * shared)


@dataclass(frozen=True)
class Judge:
    """A classifier, and its features of training images."""

    classifier: MLPClassifier
    expected: Floats

    @classmethod
    def of(cls, train: Split) -> Judge:
        """Trained on images and their labels."""
        classifier = MLPClassifier(HIDDEN, early_stopping=True, n_iter_no_change=3, random_state=SEED)
        classifier.fit(_flat(train.images), train.labels)
        return cls(classifier, _features(classifier, train.images))

    def accuracy(self, test: Split) -> float:
        """The share of test images whose class it finds."""
        return float(self.classifier.score(_flat(test.images), test.labels))

    def row(self, name: str, images: Images) -> tuple[str, str, str, str]:
        """The three numbers of images."""
        confidence = float(self.classifier.predict_proba(_flat(images)).max(1).mean())
        distance = frechet(_features(self.classifier, images), self.expected)
        return name, f"{sharpness(images):.4f}", f"{confidence:.3f}", f"{distance:.2f}"


def _flat(images: Images) -> Floats:
    return images.reshape(len(images), -1) / 255


def _features(classifier: MLPClassifier, images: Images) -> Floats:
    return np.maximum(_flat(images) @ classifier.coefs_[0] + classifier.intercepts_[0], 0)


def from_prior(model: Model, count: int) -> Images:
    """Images of latents that are drawn from a standard Gaussian, as a critic saw them, not from the model's tables."""
    graph = onnx.load_from_string(model.bundle.members[DECODER]).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    backward, centre = (stored[name] for name in graph.node[0].input[1:])
    z = np.random.default_rng(SEED).standard_normal((count, len(centre)))
    return model.synthesise(np.linalg.solve(backward.T, (z - centre).T).T.astype(np.float32))


def rows(data: Dataset, models: list[str], judge: Judge) -> Iterator[tuple[str, str, str, str]]:
    """The test images, then samples and reconstructions of each model, and of a VAE samples of its prior."""
    test = data.test.images
    yield judge.row("test images", test)
    for name in models:
        model = Model(bundle_of(library.find_any(name)))
        title, restored = model.bundle.name, unpack_images(model, pack_images(model, test, FINEST), len(test))
        yield judge.row(f"{title}, samples", sample(model, len(test)))
        if model.bundle.card["architecture"]["arch"] in (DENSE_VAE, CONV_VAE, VAE_GAN):
            yield judge.row(f"{title}, samples of the prior", from_prior(model, len(test)))
        yield judge.row(f"{title}, test images restored", restored)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data set with labels: mnist, fashion-mnist, digits")
    parser.add_argument("models", nargs="+", help="models of its images: names or files")
    parser.add_argument("--folder", type=Path, help="with the IDX files; downloaded if not given")
    given = parser.parse_args()
    data = datasets.load(given.data, given.folder)
    judge = Judge.of(data.train)
    print(f"The classifier finds the class of {judge.accuracy(data.test):.1%} of the test images.\n")
    print(table(HEAD, list(rows(data, given.models, judge)), words=1))


if __name__ == "__main__":
    main()
