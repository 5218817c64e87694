"""Latencies of requests to a model, one at a time or from many threads."""

import time
from threading import Barrier, Thread
from typing import Any


class Requests:
    """Base class of tasks whose ``request(length)`` generates this many symbols after a prompt."""

    def request(self, length: int) -> None:
        raise NotImplementedError

    def latencies(self, length: int, seconds: float, rest: float) -> dict[str, Any]:
        """Send requests for ``seconds`` seconds, sleeping ``rest`` seconds before each; returns the seconds of each request."""
        found: list[float] = []
        end = time.perf_counter() + seconds
        while not found or time.perf_counter() < end:
            time.sleep(rest)
            start = time.perf_counter()
            self.request(length)
            found.append(time.perf_counter() - start)
        return {"seconds": found}

    def clients(self, length: int, seconds: float, number: int) -> dict[str, Any]:
        """The same from ``number`` threads at once; also returns requests per second."""
        found: list[list[float]] = [[] for _ in range(number)]
        begin = Barrier(number + 1)

        def work(own: list[float]) -> None:
            begin.wait()
            while not own or time.perf_counter() < end:
                start = time.perf_counter()
                self.request(length)
                own.append(time.perf_counter() - start)

        threads = [Thread(target=work, args=(own,)) for own in found]
        for thread in threads:
            thread.start()
        start = time.perf_counter()
        end = start + seconds
        begin.wait()
        for thread in threads:
            thread.join()
        rate = sum(map(len, found)) / (time.perf_counter() - start)
        return {"seconds": [value for own in found for value in own], "rate": rate}
