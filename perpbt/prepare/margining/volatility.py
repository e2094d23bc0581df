"""Models of how far a price may move until the next margin call: EWMA, GARCH(1,1), an empirical quantile.

In: log returns, one an epoch, oldest first. Out: for every epoch the margin that its past alone suggests, a
fraction of the price. Entry k is known before return k.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from perpbt.config import DynamicMargin

Floats = npt.NDArray[np.float64]
TEN_YEARS = 10 * 31_557_600_000  # ms
GRID = 25


def two_sided(confidence: float) -> float:
    """Standard deviations that a normal return stays within, up or down, with this probability."""
    return NormalDist().inv_cdf((1.0 + confidence) / 2.0)


def ewma_variance(returns: Floats, decay: float, first: float) -> Floats:
    """s_k = decay * s_{k-1} + (1 - decay) * r_{k-1}^2 before each return and after the last; s_0 is `first`.

    J.P. Morgan, RiskMetrics technical document (1996).
    """
    found = np.empty(returns.size + 1)
    found[0] = first
    for k, squared in enumerate((returns * returns).tolist()):
        found[k + 1] = decay * found[k] + (1.0 - decay) * squared
    return found


def garch_variance(returns: Floats, alpha: float, beta: float, long_run: float) -> Floats:
    """h_k = (1 - alpha - beta) * long_run + alpha * r_{k-1}^2 + beta * h_{k-1}, h_0 = long_run.

    Bollerslev, Generalized autoregressive conditional heteroskedasticity, Journal of Econometrics 31 (1986).
    """
    found = np.empty(returns.size + 1)
    found[0] = long_run
    constant = (1.0 - alpha - beta) * long_run
    for k, squared in enumerate((returns * returns).tolist()):
        found[k + 1] = constant + alpha * squared + beta * found[k]
    return found


def horizon_variance(variance: Floats, horizon: int, persistence: float, long_run: float) -> Floats:
    """Variance of the sum of the next `horizon` returns: a step ahead it is h, then it reverts to the long run."""
    total = np.zeros_like(variance)
    for step in range(horizon):
        total += long_run + persistence**step * (variance - long_run)
    return total


def fitted_garch(returns: Floats) -> tuple[float, float]:
    """alpha and beta of greatest normal likelihood, the constant targeted at the variance of the sample.

    Looked for on a grid that is narrowed around its best point; deterministic.
    """
    long_run = float(np.mean(returns * returns))
    if not long_run > 0.0:
        return 0.0, 0.0
    low, high = np.array([0.0, 0.0]), np.array([0.5, 0.999])
    best = (0.05, 0.9)
    for _ in range(4):
        alphas, betas = (np.linspace(low[k], high[k], GRID) for k in (0, 1))
        alpha, beta = (values.ravel() for values in np.meshgrid(alphas, betas, indexing="ij"))
        allowed = alpha + beta < 0.9999
        alpha, beta = alpha[allowed], beta[allowed]
        likelihood = log_likelihood(returns, alpha, beta, long_run)
        at = int(np.argmax(likelihood))
        best = (float(alpha[at]), float(beta[at]))
        step = (high - low) / (GRID - 1)
        low = np.maximum(np.array(best) - step, 0.0)
        high = np.minimum(np.array(best) + step, 0.9998)
    return best


def log_likelihood(returns: Floats, alpha: Floats, beta: Floats, long_run: float) -> Floats:
    """Normal log-likelihood of each pair, but for a constant."""
    variance = np.full(alpha.size, long_run)
    constant, total = (1.0 - alpha - beta) * long_run, np.zeros(alpha.size)
    for squared in (returns * returns).tolist():
        total -= 0.5 * (np.log(variance) + squared / variance)
        variance = constant + alpha * squared + beta * variance
    return total


def moves(returns: Floats, horizon: int) -> Floats:
    """Absolute log returns over each run of `horizon` epochs."""
    sums = np.concatenate([np.zeros(1), np.cumsum(returns)])
    return np.abs(sums[horizon:] - sums[:-horizon]) if returns.size >= horizon else np.empty(0)


def quantile_margin(returns: Floats, spec: DynamicMargin) -> Floats:
    """The empirical quantile of the moves seen in the window before each epoch, the next one observed above it."""
    found = np.full(returns.size + 1, np.nan)
    for k in range(spec.warm_up, returns.size + 1):
        seen = moves(returns[max(0, k - spec.window) : k], spec.horizon)
        if seen.size:
            found[k] = np.quantile(seen, spec.confidence, method="higher")
    return found


def floor_margin(returns: Floats, spec: DynamicMargin) -> Floats:
    """The margin by the plain variance of all returns before each epoch, ten years of them at most."""
    squares = np.concatenate([np.zeros(1), np.cumsum(returns * returns)])
    ends = np.arange(returns.size + 1)
    begins = np.maximum(ends - TEN_YEARS // int(spec.every), 0)
    count = np.maximum(ends - begins, 1)
    variance = (squares[ends] - squares[begins]) / count
    margin: Floats = two_sided(spec.confidence) * np.sqrt(spec.horizon * variance)
    return margin


def long_run_variance(initial: Floats, spec: DynamicMargin) -> float:
    """The variance given, or the mean square of the warm-up."""
    return float(np.mean(initial * initial)) if spec.long_run is None else spec.long_run**2


def model_margin(returns: Floats, spec: DynamicMargin) -> Floats:
    """The margin M of each epoch, (returns + 1); NaN where fewer than `warm_up` returns were seen."""
    if returns.size < spec.warm_up:
        return np.full(returns.size + 1, np.nan)
    if spec.model == "quantile":
        return quantile_margin(returns, spec)
    initial = returns[: spec.warm_up]
    long_run = long_run_variance(initial, spec)
    if spec.model == "ewma":
        variance = ewma_variance(returns, spec.decay, long_run)
        over = spec.horizon * variance
    else:
        alpha, beta = (
            fitted_garch(initial) if spec.alpha is None or spec.beta is None else (spec.alpha, spec.beta)
        )
        variance = garch_variance(returns, alpha, beta, long_run)
        over = horizon_variance(variance, spec.horizon, alpha + beta, long_run)
    margin = two_sided(spec.confidence) * np.sqrt(over)
    margin[: spec.warm_up] = np.nan
    return margin


def reference_margin(returns: Floats, spec: DynamicMargin) -> float:
    """The margin at which rates stand as they are: the one given, or that of the warm-up."""
    if spec.reference is not None:
        return spec.reference
    initial = returns[: spec.warm_up]
    if spec.model == "quantile":
        return float(np.quantile(moves(initial, spec.horizon), spec.confidence, method="higher"))
    return two_sided(spec.confidence) * float(np.sqrt(spec.horizon * long_run_variance(initial, spec)))
