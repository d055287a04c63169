"""The contract suites of the ports, for whoever writes an adapter.

Subclass a contract in a test file of yours and say how to make the adapter; pytest finds the rest:

    class TestMyLog(LogContract):
        async def make_log(self) -> Log:
            return MyLog(...)
"""

from murmurate.testing.log import LogContract

__all__ = ["LogContract"]
