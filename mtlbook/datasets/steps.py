"""Which function loads a data set, and which makes its file of what the source serves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from mtlbook.datasets import prints


def later(function: str) -> Callable[..., Any]:
    """A function of this package, imported when it is called.

    Loaders need torch, and which sets there are and whether they are here is asked more often.
    """
    module, name = function.split(".")

    def call(*args: Any, **options: Any) -> Any:
        return getattr(import_module(f"mtlbook.datasets.{module}"), name)(*args, **options)

    return call


#: name -> function that returns the list of tasks; of a fetched set it is given the verified file.
LOADERS = {
    "omniglot_28": later("omniglot.load_28"),
    "omniglot_105": later("omniglot.load_105"),
    "mnist": later("images.load_split"),
    "usps_16": later("images.load_split"),
    "cifar10_12k": later("images.load_split"),
    "cifar_mtl": later("one_vs_all.load_cifar_mtl"),
    "cifar_mtl_efflite0": later("one_vs_all.load_cifar_efflite0"),
    "notmnist": later("images.load_notmnist"),
    "office_caltech10": later("office.load_images"),
    "office_caltech10_efflite0": later("office.load_features"),
    "office_caltech10_surf800": later("office.load_surf800"),
    "office_caltech10_caffenet": later("office.load_features"),
    "office_caltech10_googlenet": later("office.load_features"),
    "pacs": later("office.load_images"),
    "pacs_efflite0": later("office.load_features"),
    "office_home": later("gated.load_domains"),
    "office_home_efflite0": later("office.load_features"),
    "imageclef_da": later("gated.load_domains"),
    "imageclef_da_efflite0": later("office.load_features"),
    "celeba": later("gated.load_celeba"),
    "coco": later("gated.load_coco"),
    "school": later("regression.load_school"),
    "sarcos": later("regression.load_sarcos"),
    "digits": later("images.load_digits"),
    "mnist5k": later("images.load_mnist5k"),
    "mnist_one_vs_all": later("one_vs_all.load_mnist_one_vs_all"),
    "glyphs": later("glyphs.load"),
    "digit_domains": later("domains.load"),
}
#: name -> function that converts what was downloaded into a scratch folder to canonical arrays.
FETCHERS = {
    "notmnist": later("images.fetch_notmnist"),
    "office_caltech10": later("originals.fetch_office"),
    "office_caltech10_surf800": later("originals.fetch_office"),
    "office_caltech10_efflite0": later("originals.make_office_efflite0"),
    "office_caltech10_caffenet": later("originals.fetch_caffenet"),
    "office_caltech10_googlenet": later("originals.fetch_googlenet"),
    "pacs": later("originals.fetch_pacs"),
    "pacs_efflite0": later("originals.make_pacs_efflite0"),
    "school": later("regression.fetch_school"),
    "sarcos": later("regression.fetch_sarcos"),
    "omniglot_28": later("omniglot.fetch_28"),
    "omniglot_105": later("omniglot.fetch_105"),
    "mnist": later("images.fetch_mnist"),
    "usps_16": later("images.fetch_usps"),
    "cifar10_12k": later("images.fetch_cifar10_12k"),
    "cifar_mtl": later("images.fetch_cifar10_12k"),
    "cifar_mtl_efflite0": later("one_vs_all.make_cifar_efflite0"),
    "office_home_efflite0": partial(later("gated.make_efflite0"), "office_home"),
    "imageclef_da_efflite0": partial(later("gated.make_efflite0"), "imageclef_da"),
}
prints.VIEWS.update(
    omniglot_28=later("omniglot.picture_tasks"),
    office_caltech10=later("office.picture_tasks"),
    office_caltech10_surf800=later("office.picture_tasks"),
    office_caltech10_efflite0=later("office.feature_tasks"),
    pacs_efflite0=later("office.feature_tasks"),
)
