"""Which deployments answer a request, in what order, and why. Pure: no I/O, no clock, no HTTP, no `budgets`."""
