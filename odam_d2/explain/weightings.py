"""How a gradient becomes a weight map: ODAM's local smoothing, and what rival methods do instead.

Every function takes a gradient g and an activation A, both (C,Hl,Wl), and the detection's (sigma_y, sigma_x) in cells,
and returns weights W that broadcast to (C,Hl,Wl). The map is H = ReLU(sum_k W_k o A_k) for all of them.
"""

from collections.abc import Callable

from torch import Tensor

from odam_d2.structures import gaussian_blur

Weighting = Callable[[Tensor, Tensor, Tensor], Tensor]


def identity(gradient: Tensor, activation: Tensor, sigma: Tensor) -> Tensor:
    """ODAM's Phi as the paper's numbers use it, and HiResCAM (Draelos & Carin 2020, arXiv 2011.08891): W = dY/dA.

    HiResCAM is sum_k g_k o A_k, with no pooling of the gradient and no ReLU inside. At one feature map this *is* ODAM
    without smoothing; the two differ in what they explain, a classifier's score or any output of one detection.
    """
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


def positive_gradient(gradient: Tensor, activation: Tensor, sigma: Tensor) -> Tensor:
    """LayerCAM (Jiang et al., IEEE TIP 2021): W_kij = ReLU(g_kij), so H = ReLU(sum_k ReLU(g_k) o A_k)."""
    return gradient.relu()


def spatial_grad_cam_plus_plus(gradient: Tensor, activation: Tensor, sigma: Tensor) -> Tensor:
    """SSGrad-CAM++ (Yamauchi, CVPR workshops 2024): channel weights of Grad-CAM++ times a space map of each channel.

    W_kij = w_k S_kij, S_kij = |g_kij| / max_ab |g_kab| (0 where a channel has no gradient), w_k of
    :func:`grad_cam_plus_plus`. The space map is that of SSGrad-CAM (Yamauchi & Ishikawa, ICIP 2022).

    Our reading: the paper was not at hand, only its abstract and others' code. It also adapts alpha to detectors, with
    a mask of the instance in the denominator; we could not verify what this mask is, and take alpha unchanged.
    """
    size = gradient.abs()
    peak = size.amax(dim=(1, 2), keepdim=True)
    space = size / peak.where(peak > 0, 1.0)
    return grad_cam_plus_plus(gradient, activation, sigma) * space
