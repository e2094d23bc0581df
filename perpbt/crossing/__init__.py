"""Accounts whose positions share one wallet: cross and portfolio margin over history (MODEL §4).

In: a setting, bars, a checked table of accounts and how they are margined. Out: finished rows for settling, and a table of wallets.

Rules, where a shared wallet differs from isolated positions:

- Rows of one `account` (and `world`) are positions behind one wallet. Each opens at its own time and symbol, of the size an isolated one
  would have, and brings its `collateral` and its `reserve` (an optional column: money that backs the wallet without sizing the position);
  it is refused (`liquidated_at_entry`) if the account would not stand at mark open with it. Rows of an account have one `weight`.
- Symbols meet on the union of their times; one without a bar keeps its last mark and last price, and nothing trades there but a
  liquidation, which closes what is held at that last price.
- Equity = cash of the wallet + profit at mark - funding of all open positions, held against the sum of what they must keep: each
  position by its own notional (`legs="hedge"`), or each symbol by its net quantity (`legs="one_way"`).
- Tested at every open on mark opens; then at the adverse mark extreme if the account holds one symbol (at whichever end leaves less above
  the requirement), else at the close (`test="extremes"`: all adverse extremes at once). On one symbol, stops nearer than the liquidation
  price go first; on several, the orders of the range go before the test at the close and after that at the extremes.
- Liquidation closes everything at once: a symbol's positions at one price, the last price of the point tested, worsened by the impact
  of their net quantity. Closing fees, then liquidation fees, are paid out of what is left, all in full or each the same part; the rest
  is surplus by the venue's share. Surplus and deficit belong to the rows pro rata to their maintenance at the point tested (dYdX v4).
- With `close="in_turn"` a symbol's positions are closed, those that must keep most first (portfolio margin: the greatest gross value), and
  the account is looked at again at the same point, until it stands or is flat. Fees are then paid in full, what is left stays in the wallet,
  and surplus and deficit come with the last symbol alone. Venues say that they liquidate an account step by step (Bybit: cancel
  orders, then steps); none says in what order: largest maintenance first is a modelling assumption.
- A row's money is what its own position earned and cost with its part in these; so it can lose more than it brought, at the cost of the
  others of its wallet. Its fee at an exit of its own is cut to what is left only where it leaves the account flat; a deficit, too,
  arises only then. `max_drawdown` and `worst_margin_ratio` are the wallet's, over the whole life of the account; the ratio counts every
  tested point, that of a liquidation at the open or close included (one inside the range counts as 1).
- Portfolio margin (`margin="portfolio"`): the same, but the requirement is the worst of the venue's scenarios on net values by risk unit
  and its minimum charge (`perpbt.venue.tables.portfolio`), nothing for the close-out rate; adverse extremes by the sign of the net
  quantity; surplus and deficit pro rata to notional. Assets as collateral: `perpbt.crossing.collateral`.
- `liquidation_price` and `bankruptcy_price`: the mark of the row's own symbol at which the account is liquidated, and at which its equity
  is 0, the others (and assets they do not price) at mark open of the entry bar, all that open in it open; 0 or infinity where there is
  none, as where positions on the symbol cancel.
- The data's end marks everything at the last mark close, without fee.

`result.extra["wallets"]`: a row per account, sorted by world and account: positions, brought, wallet (money at the end), peak,
max_drawdown, worst_margin_ratio, liquidations, liquidation_time (of the first), surplus, deficit, collateral_pnl.

- Tiers may change in time (dated, dynamic, scaled by open interest): at the first bar of a symbol's own in which new ones hold, the account
  meets them with all it holds. Risk-limit steps read the notional at the mark tested; a rate that grows with size that of each position,
  or of the net quantity in one-way mode.
- Equity curves (`equity_every`) are those of whole wallets: what an account brings, then its equity at mark.

- Contracts may be inverse and quanto. All positions of one account are settled in one coin, which its wallet and all its money is in;
  accounts of different coins stand side by side in a run, and `wallets` says in `settlement` what each is in.
- Rounding to lots and ticks is that of isolated positions, but for the liquidation price: a wallet is liquidated by its equity, at
  no price of any one symbol, so no tick moves that; stops and take-profits stand on ticks.

- With `crowding` a symbol's liquidation is filled against the net notional, times weight (scaled to `open_interest`, a number or one a
  symbol), of all wallets of its world that are liquidated in that symbol, side, bar and phase; what that leaves in a wallet decides what
  it opens later (`perpbt.crossing.crowds`).
- Positions that open in one bar are tested one after another, by symbol, as a venue tests orders: at high leverage the first leg of a
  hedge must stand alone, so keep a `reserve` for it.
- With `memory` some whole accounts are worked on at a time; the bars of all symbols are held at once, and a row a wallet.

Not with a shared wallet, and refused by name: coupling; liquidation procedures but "full"; positions of one account settled in different
currencies; crowding with an `open_interest` that changes in time, with `memory`, or with `close="in_turn"` (what is sold next would
depend on fills of the same moment); with assets besides cash: equity curves, and, unless all contracts are linear, wallets of several coins
and assets that a symbol prices; with `margin="portfolio"`: dynamic margin (scenarios read no tiers), and inverse contracts in one risk
unit with others.
"""

from __future__ import annotations

from perpbt.crossing.collateral import Collateral, read_collateral
from perpbt.crossing.door import Shared, run_shared
from perpbt.crossing.terms import Margin, read_margin

__all__ = ["Collateral", "Margin", "Shared", "read_collateral", "read_margin", "run_shared"]
