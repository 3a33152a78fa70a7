import torch
from recipes.nano.optimizers import Muon, orthogonalise


def test_an_orthogonalised_matrix_has_singular_values_near_one():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(2, 24, 16)))
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_muon_lowers_a_least_squares_loss():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    target, x = torch.randn(8, 8), torch.randn(64, 8)
    optimizer = Muon([weight], lr=0.05)
    losses = []
    for _ in range(60):
        loss = (x @ (weight - target)).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
