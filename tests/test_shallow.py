"""The linear models: against scikit-learn where it has the model, else against their conditions."""

import pytest
import torch

from mtlbook.methods import L21, MTFL, MTRL, RMTL, Lasso
from mtlbook.methods.linear import NotConverged
from mtlbook.relations import Relation
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import evaluate, fit, predict

MODELS = {"lasso": Lasso, "l21": L21, "mtfl": MTFL, "rmtl": RMTL, "mtrl": MTRL}
EXACT = {"tolerance": 1e-11, "max_iterations": 50_000}
QUICK = {"max_iterations": 300, "warn": False}


def regression(samples=(30, 20, 25), features=6, outputs=1, noise=0.3):
    """Tasks whose weights lie in a plane, with unequal sizes and means that are not zero."""
    basis = torch.randn(features, 2, outputs).double()
    inputs = [torch.randn(n, features).double() + 0.5 for n in samples]
    targets = [
        torch.einsum("nf,fro,r->no", x, basis, torch.randn(2).double())
        + 2
        + noise * torch.randn(len(x), outputs).double()
        for x in inputs
    ]
    return inputs, targets


def classes(samples=(40, 12, 30), features=8, number=3):
    centres = 2 * torch.randn(number, features)
    targets = [torch.arange(n) % number for n in samples]
    inputs = [centres[y] + torch.randn(len(y), features) for y in targets]
    return TaskSet(
        "classes",
        [
            Task(str(t), x, y, classes=number)
            for t, (x, y) in enumerate(zip(inputs, targets, strict=True))
        ],
    )


def gradient(model, inputs, targets):
    """Of the mean losses at the model's weights, shape ``(K, D, T)``; and at its intercepts."""
    by_weights, by_intercepts = [], []
    for t, (x, y) in enumerate(zip(inputs, targets, strict=True)):
        scores = x @ model.coef_[..., t].mT + model.intercept_[:, t]
        if model.loss == "squared":
            slope = (scores - y) / len(x)
        else:
            slope = -y * torch.sigmoid(-y * scores) / len(x)
        by_weights.append(slope.mT @ x)
        by_intercepts.append(slope.sum(0))
    return torch.stack(by_weights, -1), torch.stack(by_intercepts, -1)


def signs(targets):
    return [torch.where(y > y.mean(), 1.0, -1.0).double() for y in targets]


# Against scikit-learn


@pytest.mark.parametrize("gamma", [0.05, 0.5])
def test_lasso_is_scikit_learns(gamma):
    linear_model = pytest.importorskip("sklearn.linear_model")
    inputs, targets = regression()
    model = Lasso(gamma, **EXACT).fit(inputs, targets)
    for t, (x, y) in enumerate(zip(inputs, targets, strict=True)):
        theirs = linear_model.Lasso(gamma, tol=1e-12, max_iter=100_000).fit(x, y[:, 0])
        ours = model.coef_[0, :, t]
        torch.testing.assert_close(ours, torch.from_numpy(theirs.coef_), atol=1e-7, rtol=1e-6)
        assert float(model.intercept_[0, t]) == pytest.approx(theirs.intercept_, abs=1e-7)


@pytest.mark.parametrize("gamma", [0.05, 0.5])
def test_l21_is_multi_task_lasso_where_inputs_are_shared(gamma):
    linear_model = pytest.importorskip("sklearn.linear_model")
    inputs, targets = regression((30, 30, 30))
    inputs = [inputs[0]] * 3
    model = L21(gamma, **EXACT).fit(inputs, targets)
    theirs = linear_model.MultiTaskLasso(gamma, tol=1e-12, max_iter=100_000)
    theirs.fit(inputs[0], torch.cat(targets, 1))
    expected = torch.from_numpy(theirs.coef_).mT
    torch.testing.assert_close(model.coef_[0], expected, atol=1e-7, rtol=1e-6)


def test_logistic_without_a_relation_is_scikit_learns():
    linear_model = pytest.importorskip("sklearn.linear_model")
    inputs, targets = regression()
    targets = signs(targets)
    model = MTRL(0.1, 0.0, loss="logistic", rounds=0, **EXACT).fit(inputs, targets)
    for t, (x, y) in enumerate(zip(inputs, targets, strict=True)):
        theirs = linear_model.LogisticRegression(C=1 / (0.1 * len(x)), tol=1e-10, max_iter=10_000)
        theirs.fit(x, y[:, 0])
        expected = torch.from_numpy(theirs.coef_[0])
        torch.testing.assert_close(model.coef_[0, :, t], expected, atol=1e-5, rtol=1e-4)


# Conditions of optimality: minus the gradient is a sub-gradient of the regulariser


def problem(loss, wide, outputs=2):
    samples, features = ((6, 4, 5), 24) if wide else ((30, 20, 25), 6)
    inputs, targets = regression(samples, features, outputs)
    return (inputs, signs(targets)) if loss == "logistic" else (inputs, targets)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
class TestOptimality:
    def test_mtfl(self, loss, wide):
        inputs, targets = problem(loss, wide)
        model = MTFL(0.05, loss=loss, **EXACT).fit(inputs, targets)
        slope, at_intercept = gradient(model, inputs, targets)
        assert float(at_intercept.abs().max()) < 1e-6
        # dual norm: the largest singular value; and <G, W> = gamma ||W||_*
        assert float(torch.linalg.matrix_norm(slope, 2).max()) <= 0.05 * (1 + 1e-5)
        norms = torch.linalg.matrix_norm(model.coef_, "nuc")
        product = -(slope * model.coef_).sum((1, 2))
        torch.testing.assert_close(product, 0.05 * norms, rtol=1e-5, atol=1e-7)
        assert float(norms.max()) > 0.1

    def test_rmtl(self, loss, wide):
        inputs, targets = problem(loss, wide)
        gamma, beta = 0.06, 0.05
        model = RMTL(gamma, beta, loss=loss, **EXACT).fit(inputs, targets)
        torch.testing.assert_close(model.low_rank_ + model.outliers_, model.coef_)
        slope, _ = gradient(model, inputs, targets)
        assert float(torch.linalg.matrix_norm(slope, 2).max()) <= gamma * (1 + 1e-4)
        assert float(slope.norm(dim=1).max()) <= beta * (1 + 1e-4)
        for part, weight, norm in (
            (model.low_rank_, gamma, torch.linalg.matrix_norm(model.low_rank_, "nuc")),
            (model.outliers_, beta, model.outliers_.norm(dim=1).sum(1)),
        ):
            product = -(slope * part).sum((1, 2))
            torch.testing.assert_close(product, weight * norm, rtol=1e-4, atol=1e-5)

    def test_l21(self, loss, wide):
        inputs, targets = problem(loss, wide)
        model = L21(0.05, loss=loss, **EXACT).fit(inputs, targets)
        slope, _ = gradient(model, inputs, targets)
        assert float(slope.norm(dim=2).max()) <= 0.05 * (1 + 1e-5)
        product = -(slope * model.coef_).sum((1, 2))
        expected = 0.05 * model.coef_.norm(dim=2).sum(1)
        torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-7)

    def test_mtrl(self, loss, wide):
        # two tasks in a plane: a relation that loses rank is approached slowly
        inputs, targets = (x[:2] for x in problem(loss, wide))
        model = MTRL(0.02, 0.03, rounds=200, loss=loss, **EXACT).fit(inputs, targets)
        slope, _ = gradient(model, inputs, targets)
        for g, w, omega in zip(slope, model.coef_, model.covariance_, strict=True):
            # tr(W Omega^-1 W^T) at the minimum over Omega is the squared trace norm
            u, s, vh = torch.linalg.svd(w, full_matrices=False)
            expected = 0.02 * w + 0.03 * s.sum() * u @ vh
            torch.testing.assert_close(-g, expected, rtol=1e-3, atol=2e-5)
            root = vh.mT @ torch.diag(s) @ vh / s.sum()
            torch.testing.assert_close(omega, root, rtol=1e-3, atol=1e-4)
            assert float(omega.trace()) == pytest.approx(1)


def test_mtrl_weights_solve_the_dense_system():
    """Given the relation: all tasks' normal equations, coupled by its inverse, in one matrix."""
    inputs, targets = regression()
    model = MTRL(0.05, 0.1, rounds=3, **EXACT).fit(inputs, targets)
    # fit() ends with weights for the last relation
    omega, features, tasks = model.covariance_[0], inputs[0].shape[1], len(inputs)
    coupling = 0.05 * torch.eye(tasks).double() + 0.1 * torch.linalg.inv(omega)
    matrix = torch.kron(coupling, torch.eye(features).double())
    right = []
    for t, (x, y) in enumerate(zip(inputs, targets, strict=True)):
        rows = slice(t * features, (t + 1) * features)
        centred = x - x.mean(0)
        matrix[rows, rows] += centred.mT @ centred / len(x)
        right.append(centred.mT @ (y[:, 0] - y.mean()) / len(x))
    expected = torch.linalg.solve(matrix, torch.cat(right)).view(tasks, features).mT
    torch.testing.assert_close(model.coef_[0], expected, rtol=1e-5, atol=1e-7)


# What each model is for


def test_rmtl_finds_the_task_that_stands_apart():
    features = 15
    common = torch.randn(features).double()
    weights = [common, 1.5 * common, 0.8 * common, 4 * torch.randn(features).double()]
    inputs = [torch.randn(60, features).double() for _ in weights]
    targets = [x @ w for x, w in zip(inputs, weights, strict=True)]
    model = RMTL(1.2, 1.0).fit(inputs, targets)
    size = model.outliers_[0].norm(dim=0)
    assert float(size[3]) > 0.5 and float(size[:3].max()) == 0


def test_mtrl_finds_the_sign_of_relations():
    features = 20
    w = torch.randn(features).double()
    inputs = [torch.randn(40, features).double() for _ in range(3)]
    targets = [s * x @ w for s, x in zip((1, 1, -1), inputs, strict=True)]
    matrix = MTRL(0.01, 0.01).fit(inputs, targets).relation().matrix
    assert float(matrix[0, 1]) > 0.9 and float(matrix[0, 2]) < -0.9


@pytest.mark.parametrize("model", [MTFL, MTRL])
def test_sharing_helps_the_small_task(model):
    """A task with five samples of a direction that two large ones know."""
    features = 20
    w = torch.randn(features).double()
    inputs = [torch.randn(n, features).double() for n in (60, 60, 5)]
    targets = [x @ w + 0.1 * torch.randn(len(x)).double() for x in inputs]
    together = MTFL(0.005) if model is MTFL else MTRL(0.0, 0.005)
    together.fit(inputs, targets)
    alone = MTRL(0.005, 0.0, rounds=0).fit(inputs[2:], targets[2:])
    error = (together.coef_[0, :, 2] - w).norm()
    assert float(error) < 0.85 * float((alone.coef_[0, :, 0] - w).norm())


# One interface


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("name", MODELS)
class TestInterface:
    def test_classes(self, name, loss, dtype):
        tasks = classes().map_inputs(lambda x: x.to(dtype))
        model = MODELS[name](0.01, loss=loss, **QUICK)
        history = fit(model, tasks, steps=1, device="cpu")
        assert history.loss.shape == (0, 3) and len(model.tasks) == 3
        assert min(evaluate(model, tasks).per_task) > 80
        assert model.coef_.shape == (3, 8, 3) and model.intercept_.shape == (3, 3)
        scores = predict(model, tasks)
        assert [tuple(s.shape) for s in scores] == [(40, 3), (12, 3), (30, 3)]
        assert all(s.dtype == dtype for s in scores)

    def test_relation(self, name, loss, dtype):
        model = MODELS[name](0.01, loss=loss, **QUICK)
        model.solve(classes())
        relation = model.relation()
        assert isinstance(relation, Relation) and "-1 to 1" in relation.meaning
        matrix = relation.matrix
        torch.testing.assert_close(matrix.diagonal(), torch.ones(3).double())
        torch.testing.assert_close(matrix, matrix.mT)
        assert float(matrix.abs().max()) <= 1 + 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_a_state_is_read_by_a_fresh_model(name):
    tasks = classes()
    model, fresh = MODELS[name](0.01, **QUICK), MODELS[name](0.01)
    model.solve(tasks)
    fresh.load_state_dict(model.state_dict())
    for a, b in zip(predict(model, tasks), predict(fresh, tasks), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(fresh.relation().matrix, model.relation().matrix)


@pytest.mark.parametrize("name", MODELS)
def test_integer_inputs_give_the_predictions_of_real_ones(name):
    tasks = classes().map_inputs(lambda x: (10 * x).round())
    model = MODELS[name](0.01, **QUICK)
    model.solve(tasks)
    whole = predict(model, tasks.map_inputs(lambda x: x.long()))
    for a, b in zip(whole, predict(model, tasks), strict=True):
        assert a.is_floating_point() and torch.allclose(a, b)


def test_binary_tasks_are_signs():
    inputs, targets = regression()
    ones = [(y > y.mean()).double() for y in targets]
    binary = [
        Task(str(t), x, y, loss="bce") for t, (x, y) in enumerate(zip(inputs, ones, strict=True))
    ]
    model = Lasso(0.01, loss="logistic")
    model.solve(TaskSet("binary", binary))
    expected = Lasso(0.01, loss="logistic").fit(inputs, signs(targets))
    assert torch.equal(model.coef_, expected.coef_)


def test_a_model_sees_its_inputs_through_its_features():
    inputs, targets = regression()
    seen = Lasso(0.05, features=lambda x: 3 * x).fit([3 * x for x in inputs], targets)
    tasks = [
        Task(str(t), x, y, loss="mse") for t, (x, y) in enumerate(zip(inputs, targets, strict=True))
    ]
    through = Lasso(0.05, features=lambda x: 3 * x)
    through.solve(TaskSet("regression", tasks))
    assert torch.equal(through.coef_, seen.coef_)


@pytest.mark.parametrize("name", MODELS)
def test_stopping_far_from_the_optimum_is_said(name):
    """Unscaled features, whose small ones hardly move: weights half of scikit-learn's once."""
    inputs, targets = regression((60, 60, 60), features=6)
    scale = torch.logspace(0, 3, 6).double()
    options = {"max_iterations": 200, "tolerance": 1e-5}
    with pytest.warns(NotConverged, match=r"residual of .*standardise the features"):
        far = MODELS[name](0.01, **options).fit([x * scale for x in inputs], targets)
    assert far.residual_ > 0.05
    near = MODELS[name](0.01, **options).fit(inputs, targets)  # no warning: they are errors here
    assert near.residual_ < 0.01


@pytest.mark.parametrize("name", MODELS)
def test_a_strong_regulariser_leaves_the_means(name):
    inputs, targets = regression()
    strengths = (1e6,) if name in ("lasso", "l21", "mtfl") else (1e6, 1e6)
    model = MODELS[name](*strengths).fit(inputs, targets)
    assert float(model.coef_.abs().max()) < 1e-4
    means = torch.stack([y.mean(0) for y in targets], -1)
    torch.testing.assert_close(model.intercept_, means, rtol=1e-3, atol=1e-3)
    assert model.relation().matrix.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_one_task_one_sample_one_class(name):
    inputs = [torch.randn(1, 4), torch.randn(3, 4)]
    tasks = [Task("a", x, torch.zeros(len(x), dtype=torch.int64), classes=1) for x in inputs]
    for k in (1, 2):
        model = MODELS[name](0.1)
        model.solve(TaskSet("few", tasks[:k]))
        assert model.coef_.isfinite().all() and model.intercept_.isfinite().all()
        assert all((p.argmax(1) == 0).all() for p in model(inputs[:k]))
    same = [torch.ones(5, 4), torch.ones(5, 4)]  # no variance at all
    model = MODELS[name](0.1).fit(same, [torch.ones(5), torch.ones(5)])
    assert model.coef_.isfinite().all()
    torch.testing.assert_close(model(same)[0], torch.ones(5, 1))


def test_features_may_outnumber_samples_without_a_difference():
    """The short cut through the samples' span, against the same problem without it."""
    inputs, targets = regression((6, 4, 5), 24)
    for model in (MTFL, RMTL, MTRL):
        quick, slow = model(0.05, **EXACT), model(0.05, **EXACT)
        slow._turns = False
        torch.testing.assert_close(
            quick.fit(inputs, targets).coef_,
            slow.fit(inputs, targets).coef_,
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: MTFL(-1), "gamma: expected a number >= 0, got -1"),
        (lambda x, y: MTRL(0.1, -0.5), "lambda2: expected a number >= 0, got -0.5"),
        (lambda x, y: RMTL(loss="hinge"), "loss: expected 'squared' or 'logistic', got 'hinge'"),
        (lambda x, y: MTFL().fit(x, y[:2]), "targets: expected one tensor for each of 3 .* got 2"),
        (lambda x, y: MTFL().fit([], []), "targets: expected one tensor for each of 0 tasks"),
        (
            lambda x, y: MTFL().fit([x[0], x[1][:, :3], x[2]], y),
            r"inputs: expected shapes \(n_t, D\) with one D, got",
        ),
        (
            lambda x, y: MTFL().fit(x, [t[1:] for t in y]),
            r"targets: expected .* \[30, 20, 25\] rows",
        ),
        (
            lambda x, y: MTFL().fit(x, [y[0], torch.cat([y[1], y[1]], 1), y[2]]),
            r"targets: expected shapes \(n_t, K\) with one K and \[30, 20, 25\] rows, got",
        ),
        (lambda x, y: MTFL(loss="logistic").fit(x, y), "targets: expected classes or -1 and"),
        (lambda x, y: MTFL().fit(x, y)(x[:2]), "inputs: expected 3 tasks, got 2"),
    ],
)
def test_errors_name_argument_expected_and_got(call, message):
    with pytest.raises(ValueError, match=message):
        call(*regression())
