"""How much more may be asked than was asked for: a token bucket of retries, or of hedges. Pure.

After Finagle's `RetryBudget` (20 % of the requests and a few a second besides) and Envoy's
`retry_budget`: without one, everybody who tries three times trebles the load of an upstream at
the very moment at which it is too much. Finagle lets deposits expire; here `most` bounds them.
"""


class Budget:
    """A balance: each request adds `share`, each second `per_s`, up to `most`; it begins full.

    So of N requests in T seconds at most `most + share * N + per_s * T` are asked again.
    """

    def __init__(self, *, share: float, per_s: float, most: float, now_s: float) -> None:
        self._share = share
        self._per_s = per_s
        self._most = most
        self._balance = most
        self._counted_s = now_s

    def deposit(self) -> None:
        """Note a request."""
        self._balance = min(self._balance + self._share, self._most)

    def take(self, now_s: float) -> bool:
        """Take one retry or hedge from the balance; say whether there was one."""
        grown = self._balance + self._per_s * (now_s - self._counted_s)
        self._balance = min(grown, self._most)
        self._counted_s = now_s
        if self._balance < 1:
            return False
        self._balance -= 1
        return True
