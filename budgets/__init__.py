"""What may be spent and what was spent: prices, keys and the ledger. Knows neither HTTP nor `routing`."""
