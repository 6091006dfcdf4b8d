"""DMTL-TF's factorisation against tensorly's, which is written by others."""

import pytest
import tensorly
import torch
from tensorly.decomposition import tucker

from mtlbook.backbones import mlp
from mtlbook.methods import DMTLTF


@pytest.mark.parametrize("ranks", [(3, 4, 2), (2, 2, 3)])
def test_the_start_is_the_truncated_hosvd_of_tensorly(ranks):
    network = mlp(6, hidden=[5], outputs=[2, 2, 2], seed=0)
    name = network.shareable[0]
    before = network.task_layers[name].stack().detach().clone()
    method = DMTLTF(network, [name], ranks=ranks)
    after = method.regularised[name].stack().detach()
    assert method.ranks() == {name: ranks}
    theirs = tensorly.tucker_to_tensor(tucker(before.numpy(), rank=ranks, n_iter_max=0))
    torch.testing.assert_close(after, torch.from_numpy(theirs), atol=1e-5, rtol=1e-5)
    best = tensorly.tucker_to_tensor(tucker(before.numpy(), rank=ranks, n_iter_max=100))
    ours, least = (after - before).norm(), (torch.from_numpy(best) - before).norm()
    assert 0 < least <= ours * (1 + 1e-5)
    assert ours <= 3**0.5 * least  # what the truncation may cost: the root of the number of modes
