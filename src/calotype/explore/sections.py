"""What there is to see of a model: each section, or why it is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calotype.bench.small import model_rows
from calotype.datasets import Dataset, Split
from calotype.explore import measures, plots, sheets
from calotype.explore.page import Picture, Section
from calotype.explore.study import BitsBackStudy, Study, TextbookStudy
from calotype.textbook.model import Images

LEVELS = (16, 48, 80, 112, 144, 176, 208, 240)
ANALYSED = 2000
SAMPLES = 16


@dataclass(frozen=True)
class View:
    """What a page is made from.

    Attributes:
        study: The model.
        data: Its images; only the test part is shown, and the training part looked up.
        log: The log of the model's run, if it is at hand.
        strange: Name and images of another set, if there is one.
        probe_images: Training images that recognition learns from.
    """

    study: Study
    data: Dataset
    log: Path | None
    strange: tuple[str, Images] | None
    probe_images: int

    @property
    def test(self) -> Split:
        """Some of the test images, evenly chosen: the first of MNIST are easier than the last."""
        whole = self.data.test
        chosen = slice(None, None, max(1, len(whole) // ANALYSED))
        return Split(whole.images[chosen], whole.labels[chosen])


def _restored(view: View) -> Section:
    shown = sheets.one_of_each(view.data.test)
    back = view.study.restore(shown)
    text = "Test images, what comes back from their latents, not rounded, and the error: black is none."
    if isinstance(view.study, BitsBackStudy):
        text += " The model codes without loss; shown is the mean of what it expects, given the latents."
    return Section("What comes back", text, (_images("restored", "restored", sheets.restored(shown, back)),))


def _images(name: str, caption: str, sheet: np.ndarray) -> Picture:
    return Picture.of_images(name, caption, sheet)


def _losses(view: View) -> Section | str:
    figure = None if view.log is None else plots.losses(view.log)
    if figure is None:
        return "Loss curves: there is no log of the model's run; name its folder by --run."
    text = "The loss of the training images, and of those that were held out to judge by."
    return Section("Training", text, (Picture.of_plot("losses", "loss", figure),))


def _curve(view: View) -> Section | str:
    if not isinstance(view.study, TextbookStudy):
        return "Rate and distortion: the model codes without loss."
    rows = list(model_rows(view.study.model, view.data.test.images, LEVELS))
    table = tuple((r.setting, f"{r.image_bytes:.2f}", f"{r.psnr_db:.2f}") for r in rows if r.psnr_db is not None)
    text = "The whole test set in chunks of 1,000 images, packed and unpacked, at some levels."
    picture = Picture.of_plot("rate-distortion", "rate and distortion", plots.curve(rows))
    return Section("Rate and distortion", text, (picture,), ("setting", "bytes an image", "PSNR dB"), table)


def _scatter(view: View) -> Section | str:
    y = view.study.analyse(view.test.images)
    if y.shape[1] < 2:
        return "Latents in a plane: there is only one."
    text = f"{len(y)} test images, each a point; a colour is a label. t-SNE keeps neighbours together, not distances."
    return Section(
        "Latents in a plane", text, (Picture.of_plot("scatter", "scatter", plots.scatter(y, view.test.labels)),)
    )


def _rates(view: View) -> Section | str:
    rates = view.study.rates(view.test.images)
    if rates is None:
        return "Rate of each latent: the model has no posterior, so its loss sets no price on a latent."
    count, total = int(rates.active.sum()), rates.bits.sum()
    text = (
        f"The divergence of each latent's posterior from its prior: {total:.1f} bits an image in all. {count} of "
        f"{len(rates.bits)} latents are active: over the images the mean of their posterior varies by more than a "
        "hundredth of the prior's variance."
    )
    return Section(
        "What each latent costs", text, (Picture.of_plot("kl", "rate", plots.rates(rates.bits, rates.active)),)
    )


def _traversals(view: View) -> Section:
    y = view.study.analyse(view.test.images)
    rates = view.study.rates(view.test.images) if isinstance(view.study, BitsBackStudy) else None
    axes = np.argsort(-(y.std(0) if rates is None else rates.bits))[: sheets.TRAVERSED].tolist()
    text = (
        f"A row for each of the {len(axes)} latents that carry most. It moves from {sheets.REACH_STD:g} standard "
        "deviations below its mean to as many above; the others stay at their mean."
    )
    return Section(
        "What a latent does", text, (_images("traversals", "traversals", sheets.traversals(view.study, y, axes)),)
    )


def _interpolations(view: View) -> Section:
    shown = sheets.one_of_each(view.data.test, 12)
    text = "From one test image to another, in equal steps of the latents."
    sheet = sheets.interpolations(view.study, shown[: len(shown) // 2 * 2])
    return Section("Between two images", text, (_images("interpolations", "interpolations", sheet),))


def _samples(view: View) -> Section:
    drawn = view.study.sample(SAMPLES, seed=0)
    text = (
        "Above, images of latents drawn as the entropy coder expects them; below each, the training image that differs "
        "least from it, by squared error. If they were the same, the model would have learned by heart."
    )
    sheet = sheets.sheet([drawn, sheets.nearest(drawn, view.data.train.images)])
    return Section("Samples", text, (_images("samples", "samples", sheet),))


def _histograms(view: View) -> Section:
    y = view.study.analyse(view.test.images)
    if isinstance(view.study, TextbookStudy):
        figure = plots.histograms(y, view.study.model.bundle.tables.tables)
        text = "The first latents of test images, in bins, and, as lines, the tables that code them."
    else:
        assert isinstance(view.study, BitsBackStudy)
        form, scales = view.study.bundle.form, view.study.bundle.scales
        figure = plots.ring(y, scales, form.prior_scale, range(min(plots.HISTOGRAMS, form.latents[0][0])))
        text = (
            "Posterior means of the first layer's latents, of test images, and the prior's table. "
            "Means spread less than the prior: the posterior's width fills up the rest."
        )
    return Section("Latents and their tables", text, (Picture.of_plot("histograms", "histograms", figure),))


def _recognition(view: View) -> Section | str:
    train, test = view.data.train, view.data.test
    if len(np.unique(train.labels)) < 2:
        return "Recognition: the images have no labels."
    learned = Split(train.images[: view.probe_images], train.labels[: view.probe_images])
    rows = tuple(
        (r.source, f"{r.numbers}", f"{100 * r.linear:.2f}", f"{100 * r.neighbours:.2f}")
        for r in measures.recognise(view.study, learned, test)
    )
    text = (
        f"Share of the {len(test)} test images whose label is told from these numbers, "
        f"learned from {len(learned)} training images: by a linear classifier (logistic regression), and by "
        f"{measures.NEIGHBOURS} nearest neighbours."
    )
    return Section("Recognition", text, (), ("from", "numbers", "linear, %", "neighbours, %"), rows)


def _denoising(view: View) -> Section | str:
    recipe = view.study.file.card.get("recipe", {})
    if not isinstance(view.study, TextbookStudy) or not recipe.get("noise_sigma"):
        return "Denoising: the model was not trained with noise (noise_sigma in a recipe)."
    rows = tuple(
        (f"{d.sigma}", d.method, f"{d.psnr_db:.2f}", f"{d.gain_db:+.2f}")
        for d in measures.denoise(view.study, view.data.validation.images, view.data.test.images)
    )
    shown = sheets.one_of_each(view.data.test)
    pictures = [
        _images(
            f"denoised-{sigma}",
            f"sigma {sigma}: clean, noisy, denoised",
            sheets.sheet([shown, noisy, view.study.restore(noisy)]),
        )
        for sigma in measures.NOISE_SIGMAS
        for noisy in [measures.with_noise(shown, sigma, 0)]
    ]
    text = (
        f"PSNR over all pixels of the first {measures.DENOISED} test images with Gaussian noise of so many of 255 "
        f"levels. The filters' settings are the best for {measures.TUNED_ON} validation images."
    )
    return Section("Denoising", text, tuple(pictures), ("sigma", "method", "PSNR dB", "gain dB"), rows)


def _anomalies(view: View) -> Section | str:
    if view.strange is None:
        return "Strange images: name another data set by --against."
    name, images = view.strange
    found = list(measures.anomalies(view.study, view.data.test.images, images))
    text = (
        f"How well a score tells the test images of {name} from those of {view.data.name}: AUROC is how often a "
        "strange image has a higher one than a usual one. The last score knows no model: if it does as well, the sets "
        "differ in how busy their images are, and the model need not have learned more than that."
    )
    rows = tuple((a.score, f"{a.auroc:.4f}") for a in found)
    names = (view.data.name, name)
    pictures = tuple(Picture.of_plot(f"scores-{i}", a.score, plots.scores(a, names)) for i, a in enumerate(found))
    return Section("Strange images", text, pictures, ("score", "AUROC"), rows)


SECTIONS: tuple[Callable[[View], Section | str], ...] = (
    _restored, _losses, _curve, _rates, _traversals, _interpolations, _samples, _scatter, _histograms,
    _recognition, _denoising, _anomalies,
)  # fmt: skip
"""In the order of the page."""
