"""The paper profile, rehearsed: its parameters, its networks, its notebooks on small folders.

Networks of full size are built and trained for a step on tensors without content; the notebooks run
with random weights on made-up folders in the layout of the real ones.
"""

import dataclasses
import json
import re
from types import SimpleNamespace
from unittest import mock

import made_up_data
import numpy as np
import pytest
import torch

from mtlbook import cli, workflow
from mtlbook.backbones import dense_network, image_network
from mtlbook.cli import plan as shown
from mtlbook.experiments import costs, mrn, mrn_images, srdml
from mtlbook.ledger import repository
from mtlbook.study import Study
from mtlbook.workflow import plan, schedule
from mtlbook.workflow.catalogue import Experiment

pytest.importorskip("torchvision")

NETWORKS = {
    "mrn-office-alexnet": "alexnet",
    "mrn-office-home-vgg16": "vgg16",
    "mrn-imageclef-alexnet": "alexnet",
    "srdml-cifar-vgg16": "vgg16",
}
COUNTED = (*NETWORKS, "mrn-office-home", "mrn-imageclef")  # no committed runs


@pytest.fixture(scope="module")
def runs(root):
    """All runs of the profile: their parameters fit the notebooks."""
    return workflow.expand(root / repository.EXPERIMENTS, "paper")


@pytest.fixture(scope="module")
def plans(root, runs):
    """Of one percentage where steps are counted: others differ in nothing that counts."""
    chosen = [
        run
        for run in runs
        if run.experiment not in COUNTED or run.parameters.get("percent", 20) == 20
    ]
    return {each.experiment: each for each in plan.plans(root, chosen)}


def known(root):
    return workflow.load_experiments(root / repository.EXPERIMENTS)


def test_the_papers_networks_are_in_the_profile_and_nowhere_else(root, runs):
    found = {}
    for run in runs:
        network = run.parameters.get("backbone", run.parameters.get("trunk"))
        if network in ("alexnet", "vgg16"):
            found[run.experiment] = network
            assert run.parameters.get("weights", "IMAGENET1K_V1") == "IMAGENET1K_V1"
            assert (run.parameters.get("width", 0), run.parameters.get("limit", 0)) == (0, 0)
            assert run.parameters.get("size", 224) == 224
            assert list(known(root)[run.experiment].profiles) == ["paper"]
    assert found == NETWORKS
    arms = {arm for run in runs if run.experiment == "mrn-office-alexnet"
            for arm in mrn_images.GROUPS[run.parameters["group"]]}  # fmt: skip
    assert arms == set(mrn_images.ARMS) >= set(mrn.PAPER_ARMS)
    of_cifar = [run for run in runs if run.experiment == "srdml-cifar-vgg16"]
    arms = [arm for run in of_cifar for arm in run.parameters["arms"]]
    assert len(arms) == len(set(arms)) and set(arms) == set(srdml.ARMS) - {"srdml-released"}
    assert srdml.study(of_cifar[0].parameters).protocol.hidden == 128  # the scripts' heads


# Shapes


@pytest.mark.parametrize(("backbone", "maps"), [("alexnet", 9216), ("vgg16", 25088)])
def test_one_step_of_full_size_counts_what_a_hand_counts(backbone, maps):
    """Four tasks of 24 samples: operations are those of the matrix products of three layers."""
    study = mrn_images.table(5, backbone=backbone, weights="", steps=300)
    tasks = costs.shapes("office_caltech10", (maps,), 10, 24)
    fc6, fc7, fc8 = maps * 4096, 4096 * 4096, 4096 * 10
    stl, pooled = (costs.of_step(study, arm, tasks) for arm in ("stl", "pooled"))
    # forward, and back to weights and inputs; the maps are given, so not to them
    assert stl.operations == pooled.operations == 2 * 96 * (3 * (fc6 + fc7 + fc8) - fc6)
    assert stl.forward == 2 * 4 * (fc6 + fc7 + fc8)
    assert stl.update == 0
    numbers = 4 * (fc6 + fc7 + fc8 + 2 * 4096 + 10)
    # weights, gradients and momentum, and what is kept of 96 samples
    assert 12 * numbers < stl.memory < 12 * numbers + 4 * 96 * (maps + 8 * 4096)
    assert pooled.memory < stl.memory / 3


def test_the_prior_on_fc7_costs_what_its_covariances_cost():
    study = mrn_images.table(5, weights="", steps=300)
    tasks = costs.shapes("office_caltech10", (9216,), 10, 24)
    task_only, full = (costs.of_step(study, arm, tasks) for arm in ("mrn-t", "mrn"))
    square = 4096**2
    assert (
        full.operations - task_only.operations > 2 * 2 * 4096 * square * 4
    )  # two products, at least
    # of fc7 two Cholesky factors and their inverses, the Gram matrices of 4096 x 4 columns, and at
    # least one triangular system of as many; less than half an eigendecomposition
    factors, gram, system = 2 * costs.TRIANGULAR, 8, 4 * costs.TRIANGULAR
    assert factors + gram + system < full.update / 4096**3 < costs.EIGH / 2
    assert full.update_every == study.protocol.update_every == 10


@pytest.mark.parametrize("arm", mrn_images.ARMS)
def test_every_arm_takes_a_step_on_the_shapes_of_imageclef(arm):
    study = mrn_images.table(5, weights="", steps=300)
    one = costs.of_step(study, arm, costs.shapes("imageclef_da", (9216,), 12, 24))
    assert one.solved == (arm in ("mtfl", "rmtl", "mtrl"))
    assert one.solved or one.operations > 1e10


def test_arms_and_their_parts_add_up():
    study = mrn_images.table(5, weights="", steps=300)
    tasks = costs.shapes("office_caltech10", (9216,), 10, 24)
    cost = costs.of_run(study, ["pooled"], tasks, repeats=5, samples=600)
    one = costs.of_step(study, "pooled", tasks)
    assert cost.trainings == 12 * 2 + 5
    assert cost.operations == 29 * 300 * one.operations + 5 * 600 * one.forward
    assert cost.memory == one.memory + 4 * 600 * 9216 * 4
    from_start = costs.of_run(study, ["dmtl-tf"], tasks, repeats=5, samples=600)
    assert from_start.trainings == 29 + (2 + 5)  # the arm it starts from, once a split


def test_dense_layers_on_maps_are_the_network_on_images():
    images = torch.rand(2, 3, 3, 64, 64)
    whole = image_network("alexnet", [5, 5], seed=1).eval()
    convolutions = whole.trunk.conv.module
    dense = [torch.nn.Linear(9216, 4096), torch.nn.Linear(4096, 4096)]
    for name, layer in zip(("fc6", "fc7"), dense, strict=True):
        layer.weight = torch.nn.Parameter(whole.task_layers[name].weight[0].mT.detach())
        layer.bias = torch.nn.Parameter(whole.task_layers[name].bias[0].detach())
    alone = dense_network(dense, [5, 5], seed=1).eval()
    maps = [convolutions(x) for x in images]
    for a, b in zip(whole(list(images)), alone(maps), strict=True):
        torch.testing.assert_close(a, b)


def test_fc8_has_ten_times_the_step_size_and_biases_do_not_decay():
    dense = [torch.nn.Linear(7, 6), torch.nn.Linear(6, 5)]
    network = dense_network(dense, [3, 3], seed=0)
    rates = {"outputs": 3, "lr": 0.1, "momentum": 0.9, "decay": 0.01}
    found = {}
    for group in mrn_images.optimiser(network.parameters(), **rates).param_groups:
        for p in group["params"]:
            (name,) = [n for n, q in network.named_parameters() if q is p]
            found[name] = group["lr"], group["weight_decay"]
    assert found.pop("head.weight") == (1.0, 0.01) and found.pop("head.bias") == (1.0, 0)
    for name, (lr, decay) in found.items():
        assert (lr, decay) == (0.1, 0.01 if name.endswith("weight") else 0)


# Notebooks


def office(count):
    """As `made_up_data._office`, with more images."""
    files = [made_up_data._png(image) for image in made_up_data.byte_values(count, 16, 16, 3)]
    arrays = made_up_data._features(count)
    sizes = np.cumsum([0, *map(len, files)])
    pictures = {"jpeg": np.frombuffer(b"".join(files), np.uint8), "jpeg_offsets": sizes}
    return arrays | pictures | {"surf800": made_up_data.byte_values(count, 800) // 30}


def office_home(folder):
    for row in range(80):
        domain = ("Art", "Clipart", "Product", "Real World")[row // 20]
        made_up_data._draw(folder / domain / ("Bed", "Clock")[row % 2] / f"{row:05d}.jpg", row)


def imageclef(folder):
    for index, letter in enumerate(made_up_data.gated.CLEF.values()):
        for row in range(20):
            made_up_data._draw(folder / letter / f"{row}.jpg", 20 * index + row)
        lines = "".join(f"{row}.jpg {row % 2}\n" for row in range(20))
        (folder / f"{letter}List.txt").write_text(lines)


LARGER = dict.fromkeys(("office_caltech10", "office_caltech10_surf800"), office(80))  # one file
LARGER |= {"office_home": office_home, "imageclef_da": imageclef}
COUNTS = {"counts": dict.fromkeys(("Art", "Clipart", "Product", "Real_World"), 20), "classes": 2}


@pytest.fixture
def folders(tmp_path):
    """For one test each: estimates ask the true registry how large the sets are."""
    folder = tmp_path / "data"
    folder.mkdir()
    with (
        mock.patch.dict(made_up_data.FILES, LARGER),
        mock.patch.dict(made_up_data.COUNTS, office_home=COUNTS),
        made_up_data.made_up_cache(folder),
    ):
        yield folder


def executed(root, run, **smaller):
    """A notebook's cells with the parameters of a run, but for those that make it small."""
    cells = json.loads((root / "notebooks" / run.notebook.name).read_text())["cells"]
    space = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), space)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert set(run.parameters | smaller) <= set(space)
                space |= run.parameters | smaller
    return space["result"]


@pytest.mark.parametrize(
    ("experiment", "groups"),
    [
        ("mrn-office-alexnet", ("baselines", "controls", "partial", "full")),
        ("mrn-office-home-vgg16", ("controls", "full")),  # other layouts: a part of the same arms
        ("mrn-imageclef-alexnet", ("full",)),
    ],
)
def test_the_tables_on_images_run_on_small_folders(
    root, runs, folders, experiment, groups, tmp_path
):
    """Arms of the table at one percentage, tuned and measured, through real convolutions."""
    small = {"weights": "", "width": 6, "size": 64, "steps": 2, "repeats": 1, "device": "cpu"}
    accuracies, chosen = {}, set()
    for run in runs:
        if (run.experiment, run.parameters.get("percent")) != (experiment, 20):
            continue
        if run.parameters["group"] not in groups:
            continue
        with mock.patch.object(Study, "at", _two_settings):
            result = executed(root, run, **small, result=str(tmp_path / f"{run.id}.json"))
        assert result.data["name"] == run.parameters["data"] and result.data["tasks"] == 4
        assert result.parameters["backbone"] == NETWORKS[experiment]
        for record in result.records:
            if record["metric"] == "accuracy_percent/20" and "@" not in record["arm"]:
                accuracies[record["arm"]] = record["value"]
                assert len(record["per_task"]) == 4
        chosen |= {name.removesuffix("/20") for name in result.settings["chosen"]}
    arms = {arm for group in groups for arm in mrn_images.GROUPS[group]}
    assert set(accuracies) == chosen == arms
    assert all(0 <= value <= 100 for value in accuracies.values())


def _two_settings(study, **changes):
    """Two of an arm's settings or values, on one split: a rehearsal of the rest."""
    arms = {
        name: dataclasses.replace(arm, configurations=arm.configurations[:2], grid=arm.grid[:2])
        for name, arm in study.arms.items()
    }
    protocol = dataclasses.replace(study.protocol, **changes)
    return dataclasses.replace(study, arms=arms, protocol=protocol, tuning_splits=(1000,))


def test_cifar_mtl_runs_with_a_narrow_vgg16(root, runs, folders, monkeypatch):
    """The layers of VGG16 with a sixteenth of its channels, the method and where it starts."""
    from torchvision import models
    from torchvision.models.vgg import cfgs, make_layers

    narrow = [layer if layer == "M" else layer // 16 for layer in cfgs["D"]]
    asked = []

    def vgg16(weights):
        asked.append(weights)
        return SimpleNamespace(features=make_layers(narrow))

    monkeypatch.setattr(models, "vgg16", vgg16)
    small = {"train": 1, "validation": 1, "epochs": 1, "extra_epochs": 1, "repeats": [0]}
    arms = set()
    for run in runs:
        if run.experiment == "srdml-cifar-vgg16" and "srdml" in run.parameters["arms"]:
            with mock.patch.object(Study, "at", _two_settings):
                result = executed(root, run, **small, device="cpu")
            arms |= {r["arm"] for r in result.records if r["metric"] == "accuracy_percent"}
            assert result.settings["protocol"]["trunk"] == "vgg16"
    assert arms == {"hard-sharing", "srdml", "srdml-pcgrad"}
    assert set(asked) == {"IMAGENET1K_V1"}


# What a dry run says


def test_every_experiment_has_a_plan_with_time_memory_and_its_basis(root, runs, plans):
    assert set(plans) == {run.experiment for run in runs}
    for name, each in plans.items():
        assert each.seconds > 0 and each.memory > 1e7, name
        assert each.basis.startswith("estimated: " if name in COUNTED else plan.MEASURED), name
    hours = {name: plans[name].seconds / 3600 for name in NETWORKS}
    assert 10 < hours["srdml-cifar-vgg16"] < 100
    assert all(0.1 < hours[name] < 10 for name in NETWORKS if name.startswith("mrn"))
    assert plans["mrn-office-home"].seconds > 100 and "mrn-office on a CPU" in (
        plans["mrn-office-home"].basis
    )
    assert plans["tnrdmtl-omniglot"].seconds == pytest.approx(4736, rel=0.01)
    assert plans["tnrdmtl-omniglot"].memory == pytest.approx(1.57e9, rel=0.01)


def test_counted_operations_follow_the_measured_seconds(root):
    """Of nine committed runs, none is five times as fast or slow as all of them together."""
    found = plan.measured_runs(root, "mrn-office")
    work = [costs.COUNTED[run.notebook.name](run.parameters).operations for run, _ in found]
    seconds = [of for _, of in found]
    assert len(found) == 9
    together = sum(work) / sum(seconds)
    assert all(1 / 5 < w / s / together < 5 for w, s in zip(work, seconds, strict=True))


def test_what_differs_from_laptop_is_said(root, plans):
    assert plans["tnrdmtl-omniglot"].differs == "nothing"
    assert plans["tnrdmtl-domains"].differs == (
        "repeats 10 (laptop: 3); arm 8 of them (laptop: all)"
    )
    assert plans["mrn-planted"].differs == ("plants all (laptop: uniform, groups, signs, none)")
    assert plans["tnrdmtl-omniglot-step"].differs == (
        "not in laptop, which takes the committed choices"
    )
    assert plans["mrn-office-alexnet"].differs == "not in laptop, where mrn-linear takes its place"
    for name, of in known(root).items():
        assert of.instead_of is None or "laptop" in known(root)[of.instead_of].profiles, name


def test_an_experiment_of_one_profile_that_nobody_uses():
    alone = Experiment(paper="p", title="t", notebook="n.ipynb", profiles={"paper": {}})
    assert plan.differences("a", "paper", {"a": alone}) == "not in laptop"


def test_the_dry_run_prints_it(root, plans, runs, capsys, monkeypatch):
    monkeypatch.setenv("MTLBOOK_ROOT", str(root))
    monkeypatch.setenv("COLUMNS", "80")
    only = ["mrn-office-home-vgg16", "tnrdmtl-glyphs"]
    assert cli.main(["reproduce", "--profile", "paper", "--dry-run", "--only", *only]) == 0
    out = capsys.readouterr().out
    text, _, command = out.rpartition("\n\n")
    assert "snakemake" in command and "tnrdmtl-glyphs all" not in out
    # the path of a temporary folder may be longer than a line, and is not broken
    assert all(len(line) <= 80 or len(line.split()) == 1 for line in text.splitlines()), text
    flat = " ".join(text.split())
    large = (
        r"12 runs; 8\d\.\d min, 7\.\d GB \(estimated: 5e\+16 operations of 1065 trainings at 1e\+1"
    )
    assert re.search(large, flat)
    of = json.loads((root / "data/results/tnrdmtl-glyphs.json").read_text(encoding="utf-8"))
    runs = [run for made in of["provenance"]["runs"] for run in made["of"].values()]
    minutes = sum(schedule.alone(run) for run in runs) / 60
    large = max(run["peak_memory_mb"] for run in runs) * 2**20 / 1e9
    assert f"{len(runs)} runs; {minutes:.1f} min, {large:.1f} GB (measured, committed runs)" in flat
    assert "differs from laptop: alphabets 20 of them (laptop: 8 of them)" in flat
    assert "Estimated: operations and bytes of one step of every arm" in flat
    if "without data" in flat:
        assert "data: office_home: mtlbook data verify office_home (first put into" in flat


def test_sums_and_units_of_a_dry_run():
    def of(seconds, basis, state="here"):
        return plan.Plan("a", "A", 2, 1, "nothing", {"set": state}, seconds, 2e9, basis)

    listed = [of(30, plan.MEASURED), of(7200, "estimated: so"), of(None, "not measured", "get it")]
    text = " ".join(shown.text(listed, "paper", 80).split())
    assert "a: A 2 runs, 1 finished; 30 s, 2.0 GB (measured, committed runs)" in text
    assert (
        "3 experiments, 6 runs; measured: 1 experiments, 30 s; estimated: 1 experiments, 2.0 h"
        in (text)
    )
    assert "without data: set." in text
    assert [shown.duration(x) for x in (89, 91, 5400)] == ["89 s", "1.5 min", "1.5 h"]
