"""A clearing house over a run: members with accounts, netting, a default waterfall, and how large its fund must be.

`perpbt.clear(result, members=…, layers=…)` sends a run's deficits through the layers; `Layers` says what they
hold. `settle` is one period of it by hand. `bilateral_exposure`, `cleared_exposure` and `netted_positions` say
what netting saves; `cover` and `concentration_factor` size a default fund, `stressed_losses` makes the scenario
matrix they read. `share_lost_variance`, `all_fail`, `share_lost_at_most` and `leg_liquidated`: one venue or several, when venues fail.
"""

from perpbt.clearing.house import Cleared, clear
from perpbt.clearing.netting import (
    bilateral_exposure,
    cleared_exposure,
    clearing_reduces_exposure,
    expected_bilateral,
    expected_cleared,
    member_losses,
    netted_positions,
    with_members,
)
from perpbt.clearing.sizing import Cover, concentration_factor, cover, stressed_losses
from perpbt.clearing.venues import all_fail, leg_liquidated, share_lost_at_most, share_lost_variance
from perpbt.clearing.waterfall import LAYERS, House, Layers, Settlement, settle

__all__ = [
    "LAYERS",
    "Cleared",
    "Cover",
    "House",
    "Layers",
    "Settlement",
    "all_fail",
    "bilateral_exposure",
    "clear",
    "cleared_exposure",
    "clearing_reduces_exposure",
    "concentration_factor",
    "cover",
    "expected_bilateral",
    "expected_cleared",
    "leg_liquidated",
    "member_losses",
    "netted_positions",
    "settle",
    "share_lost_at_most",
    "share_lost_variance",
    "stressed_losses",
    "with_members",
]
