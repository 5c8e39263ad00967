"""How a gradient becomes a weight map: ODAM's local smoothing, Grad-CAM's and Grad-CAM++'s pooling.

Every function takes a gradient and an activation, both (C,Hl,Wl), and the detection's (sigma_y, sigma_x) in cells, and
returns weights that broadcast to (C,Hl,Wl).
"""

from collections.abc import Callable

from torch import Tensor

from odam_d2.structures import gaussian_blur

Weighting = Callable[[Tensor, Tensor, Tensor], Tensor]


def identity(gradient: Tensor, activation: Tensor, sigma: Tensor) -> Tensor:
    """ODAM's Phi as the paper's numbers use it: W = dY/dA."""
    return gradient


def gaussian(gradient: Tensor, activation: Tensor, sigma: Tensor) -> Tensor:
    """ODAM's Phi as the paper's figures use it: W = Gaussian * dY/dA, as wide as the object asks for."""
    return gaussian_blur(gradient, sigma.expand(len(gradient), 2))


def global_average(gradient: Tensor, activation: Tensor, sigma: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017): W_k = mean over (i,j) of dY/dA_kij."""
    return gradient.mean(dim=(1, 2), keepdim=True)


def grad_cam_plus_plus(gradient: Tensor, activation: Tensor, sigma: Tensor) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al., WACV 2018).

    W_k = sum over (i,j) of alpha_kij ReLU(g_kij), alpha_kij = g_kij^2 / (2 g_kij^2 + sum_ab A_kab g_kij^3), and 0
    where the denominator is 0.
    """
    square = gradient**2
    denominator = 2 * square + activation.sum(dim=(1, 2), keepdim=True) * gradient**3
    safe = denominator.where(denominator != 0, 1.0)
    alpha = (square / safe).where(denominator != 0, 0.0)
    return (alpha * gradient.relu()).sum(dim=(1, 2), keepdim=True)
