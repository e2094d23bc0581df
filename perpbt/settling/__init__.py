"""From the book of positions to money: weights, crowds, the fund, currencies, and the columns of the accounts table."""
