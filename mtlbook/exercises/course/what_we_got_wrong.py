"""Exercises of the page on what we got wrong: mistakes that were ours."""

import posixpath
import unicodedata

import torch
import torch.nn.functional as F
from torch import nn

from mtlbook.exercises.model import (
    DERIVE,
    WARM_UP,
    Exercise,
    Mistake,
    close,
    randn,
    require,
)

WRONG = "reproduction/what-we-got-wrong"

# ------------------------------------------------------------------------------- the random layer


def starts_at_the_pretrained(f):
    """The hidden layer starts at the given weights

    What does `nn.Linear` put into a new layer?
    """
    weight, bias, x = _pretrained()
    came = f(weight, bias, 10)
    require(
        isinstance(came, nn.Sequential) and len(came) == 3,
        "an nn.Sequential of hidden layer, ReLU and head",
        type(came).__name__,
    )
    close(came[0](x).detach(), F.linear(x, weight, bias), "what the hidden layer gives")


def is_trained(f):
    """All layers are trained

    Fine-tuning starts at given weights; it does not stay there.
    """
    frozen = [
        name for name, p in f(*_pretrained()[:2], 10).named_parameters() if not p.requires_grad
    ]
    require(not frozen, "parameters that require a gradient", f"frozen: {', '.join(frozen)}")


def is_the_tasks_own(f):
    """Every task has a copy: training one moves neither another nor the given weights

    A parameter made of a tensor shares its memory.
    """
    weight, bias, _ = _pretrained()
    f(weight, bias, 10)
    before = weight.clone()
    one, two = (f.function(weight, bias, classes) for classes in (10, 5))
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(1.0)
    moved = [
        name
        for name, w in (("the given weights", weight), ("another task", two[0].weight))
        if not torch.equal(w.detach(), before)
    ]
    require(not moved, "nothing else that moves", f"{' and '.join(moved)} moved along")


def _pretrained():
    return randn(6, 4).float(), randn(6, seed=1).float(), randn(3, 4, seed=2).float()


def _layers(fill):
    def answer(weight, bias, classes):
        fc7 = nn.Linear(weight.shape[1], len(weight))
        head = nn.Linear(len(weight), classes)
        fill(fc7, weight, bias)
        return nn.Sequential(fc7, nn.ReLU(), head)

    return answer


def _frozen(fc7, weight, bias):
    fc7.load_state_dict({"weight": weight, "bias": bias})
    fc7.requires_grad_(False)


def _shared(fc7, weight, bias):
    fc7.weight, fc7.bias = nn.Parameter(weight), nn.Parameter(bias)


# ------------------------------------------------------------------------------------ intervals


def _coverage(f, n, draws=300):
    # a draw on which Student's t covers what it covers on average
    values = randn(draws, n, seed=6 * n)
    ends = [f(row) for row in values]
    return sum(float(low) <= 0 <= float(high) for low, high in ends) / draws


def covers_with_three(f):
    """With three repeats about 95 % of 300 intervals cover the truth

    Three values say little about their own spread, and resampling them adds nothing.
    """
    share = _coverage(f, 3)
    require(0.93 < share < 0.97, "93 to 97 %", f"{100 * share:.1f} %")


def covers_with_ten(f):
    """With ten repeats about 95 % do, too

    How many degrees of freedom has the spread of ten values?
    """
    share = _coverage(f, 10)
    require(0.93 < share < 0.97, "93 to 97 %", f"{100 * share:.1f} %")


def _bootstrap(values):
    chosen = torch.randint(len(values), (1000, len(values)))
    means = values[chosen].mean(1)
    return means.quantile(0.025), means.quantile(0.975)


def _t(quantile, ddof=1):
    def answer(values):
        n = len(values)
        half = quantile(n) * values.std(correction=ddof) / n**0.5
        return values.mean() - half, values.mean() + half

    return answer


# ---------------------------------------------------------------------------------------- draws


def _drawn(f, seed=0):
    return f((200, 100), 0.1, torch.Generator().manual_seed(seed))


def lies_inside(f):
    """Nothing lies outside of two deviations

    Two deviations of *this* normal distribution, which has deviation `std`.
    """
    largest = float(_drawn(f).abs().max())
    require(largest <= 0.2 + 1e-7, "at most 0.2 for std = 0.1", f"{largest:.3f}")


def has_no_heap(f):
    """Nothing is heaped up at the ends, and the spread is that of a truncated normal

    What lay outside is drawn again; it is not pushed to the edge.
    """
    x = _drawn(f)
    edge, spread = float((x.abs() > 0.196).double().mean()), float(x.std()) / 0.1
    require(edge < 0.02, "less than 2 % within a fiftieth of the ends", f"{100 * edge:.1f} %")
    require(0.86 < spread < 0.90, "a deviation of 0.88 std", f"{spread:.3f} std")


def depends_on_the_generator_alone(f):
    """The same generator gives the same numbers, whatever else has been drawn

    Every draw, the second ones too, must come from the generator that was given.
    """
    one = _drawn(f)
    close(_drawn(f), one, "the second time")


def keeps_what_was_inside(f):
    """What lay inside at the first draw of `normal_` is kept

    Only `normal_` is the same in all versions that we met. Start from it, and replace the rest.
    """
    first = torch.empty(200, 100).normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    inside = first.abs() <= 0.2
    close(_drawn(f)[inside], first[inside], "the entries that were inside")


def _redrawn(shape, std, generator, again=None, limit=None):
    x = torch.empty(shape).normal_(0, std, generator=generator)
    while (outside := x.abs() > (limit or 2 * std)).any():
        x = torch.where(outside, torch.empty(shape).normal_(0, std, generator=again), x)
    return x


def _by_inverse(shape, std, generator):
    u = torch.rand(shape, generator=generator) * 0.9545 + 0.02275
    return (std * 2**0.5 * torch.erfinv(2 * u - 1)).clamp(-2 * std, 2 * std)


# ------------------------------------------------------------------------------------- spelling


def counts_common_ones(f):
    """Of plain paths it counts those that are in both lists, each once

    A sample may stand in a list twice.
    """
    train, test = ["a/1.jpg", "a/2.jpg", "a/2.jpg"], ["a/2.jpg", "a/3.jpg", "a/2.jpg"]
    close(f(train, test), 1, "the overlap")


def sees_through_slashes(f):
    """Points, doubled and backward slashes make no other sample

    `posixpath.normpath` knows points; a path that was written on Windows has backward slashes.
    """
    train = ["./art/1.jpg", "art//2.jpg", "art\\3.jpg", "art/x/../4.jpg", "5.jpg"]
    test = ["art/1.jpg", "art/2.jpg", "art/3.jpg", "art/4.jpg", "6.jpg"]
    close(f(train, test), 4, "the overlap")


def sees_through_letters(f):
    """An accented letter is one letter, however it is coded

    Unicode has it as one character or as two; `unicodedata.normalize` chooses a form.
    """
    close(f(["caf\u00e9/1.jpg"], ["cafe\u0301/1.jpg"]), 1, "the overlap")


def keeps_others_apart(f):
    """What differs in folder, letter or case stays another sample

    On the system where the lists were written, A.jpg and a.jpg are two files.
    """
    train = ["art/1.jpg", "photo/2.jpg", "a.jpg", "b.jpg", "c.jpg", "d.jpg", "cafe/3.jpg"]
    test = ["photo/1.jpg", "art/2.jpg", "A.jpg", "B.jpg", "C.jpg", "D.jpg", "caf\u00e9/3.jpg"]
    close(f(train, test), 0, "the overlap")


def _overlap(spell):
    return lambda train, test: len({*map(spell, train)} & {*map(spell, test)})


def _slashes(name):
    return posixpath.normpath(name.replace("\\", "/"))


def _plain_letters(name):
    parts = unicodedata.normalize("NFD", _slashes(name))
    return "".join(c for c in parts if not unicodedata.combining(c))


EXERCISES = (
    Exercise(
        "ex-wrong-layer",
        "Find the bug: a layer that nobody asked for",
        DERIVE,
        WRONG,
        signature="task_layers(weight, bias, classes)",
        shapes="weight (hidden, features) and bias (hidden,), pretrained; classes a number -> an "
        "nn.Sequential of hidden layer, ReLU and head",
        checks=(starts_at_the_pretrained, is_trained, is_the_tasks_own),
        mistakes=(
            Mistake(
                "This does what ours did: the hidden layer starts at random numbers.",
                _layers(lambda fc7, weight, bias: None),
            ),
            Mistake("The hidden layer is right at the start, and frozen there.", _layers(_frozen)),
            Mistake(
                "`nn.Parameter(weight)` is the given tensor itself, for every task: clone it.",
                _layers(_shared),
            ),
        ),
    ),
    Exercise(
        "ex-wrong-interval",
        "Find the bug: an interval that covers less than it says",
        DERIVE,
        WRONG,
        signature="interval(values)",
        shapes="values (n,), n from 3 to 10, one per repeat -> (low, high), a 95 % interval of "
        "their mean",
        checks=(covers_with_three, covers_with_ten),
        mistakes=(
            Mistake(
                "Whatever is resampled lies between the smallest and the largest of three values, "
                "and the mean of all repeats often does not.",
                _bootstrap,
            ),
            Mistake(
                "1.96 is right where the spread is known; yours is estimated from few values.",
                _t(lambda n: 1.96),
            ),
            Mistake(
                "The spread is divided by n. With few values that is too small: by n - 1.",
                _t(lambda n: {3: 4.303, 10: 2.262}[n], ddof=0),
            ),
            Mistake(
                "The quantile is that of three values, for any number of them.",
                _t(lambda n: 4.303),
            ),
        ),
    ),
    Exercise(
        "ex-wrong-draws",
        "Find the bug: a seed that means other weights",
        DERIVE,
        WRONG,
        signature="truncated_normal(shape, std, generator)",
        shapes="shape, a tuple; std, a number -> a tensor of that shape, float32",
        checks=(
            lies_inside,
            has_no_heap,
            depends_on_the_generator_alone,
            keeps_what_was_inside,
        ),
        mistakes=(
            Mistake(
                "The limit of 2 is in units of the numbers, not of `std`: nothing is cut. So are "
                "the defaults of PyTorch's function.",
                lambda *args: _redrawn(*args, args[2], limit=2.0),
            ),
            Mistake(
                "What lay outside is pushed to the edge, where it makes a heap.",
                lambda shape, std, generator: (
                    torch.empty(shape).normal_(0, std, generator=generator).clamp(-2 * std, 2 * std)
                ),
            ),
            Mistake(
                "The numbers that are drawn again come from PyTorch's global generator.",
                lambda *args: _redrawn(*args),
            ),
            Mistake(
                "A truncated normal, by another way: from uniform numbers. A seed means other "
                "weights than by `normal_`. PyTorch changed its way between two versions, which is "
                "how we came to write our own.",
                _by_inverse,
            ),
        ),
    ),
    Exercise(
        "ex-wrong-spelling",
        "Find the bug: two spellings of one sample",
        WARM_UP,
        WRONG,
        signature="overlap(train, test)",
        shapes="two lists of paths -> how many samples are in both",
        checks=(
            counts_common_ones,
            sees_through_slashes,
            sees_through_letters,
            keeps_others_apart,
        ),
        mistakes=(
            Mistake(
                "A sample that is listed twice is one sample.",
                lambda train, test: sum(name in train for name in test),
            ),
            Mistake(
                "Paths are compared letter by letter, as our audit did: bring both lists to one "
                "spelling first.",
                _overlap(lambda name: name),
            ),
            Mistake(
                "Slashes are in order. Print the two spellings of the accented letter, and their "
                "lengths.",
                _overlap(_slashes),
            ),
            Mistake(
                "The accent is gone, and with it the difference between two words: bring it to one "
                "form, do not drop it.",
                _overlap(_plain_letters),
            ),
            Mistake(
                "The folder belongs to the name: of every task there is an image 1.jpg.",
                _overlap(lambda name: unicodedata.normalize("NFC", _slashes(name).split("/")[-1])),
            ),
            Mistake(
                "Case makes a difference.",
                _overlap(lambda name: unicodedata.normalize("NFC", _slashes(name)).lower()),
            ),
        ),
    ),
)
