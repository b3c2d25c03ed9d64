"""The claims, in the order in which a study makes them."""

from thalweg.lab.claims import digits, drift, loss_scale, one_rho, stability
from thalweg.lab.claims.claim import Claim, Evidence, within

CLAIMS: tuple[Claim, ...] = (
    stability.CLAIM,
    drift.CLAIM,
    loss_scale.CLAIM,
    digits.CLAIM,
    one_rho.CLAIM,
)

__all__ = ["CLAIMS", "Claim", "Evidence", "within"]
