"""How embedding services are asked: JSON over HTTP, one pool of connections for the node.

`node` opens and closes it, `search.services` calls it. A service is an operator's choice: redirects
are not followed, and an answer has a size.
"""

import aiohttp

CONNECTIONS_MAX = 8
ANSWER_BYTES_MAX = 64 << 20  # 64 vectors of 4,096 numbers as JSON take about 6 MB


class HttpPost:
    """Posts JSON; a `search.services.Post`."""

    def __init__(self, key: str = "") -> None:
        """`key` is sent as a bearer token."""
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, url: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises OSError, TimeoutError."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX)
            self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)
        try:
            async with self._session.post(url, data=body, allow_redirects=False) as answer:
                data = await answer.content.read(ANSWER_BYTES_MAX)
                while len(data) < ANSWER_BYTES_MAX:
                    more = await answer.content.read(ANSWER_BYTES_MAX - len(data))
                    if not more:
                        break
                    data += more
                return answer.status, data
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error
        except ValueError as error:  # no URL
            raise OSError(str(error)) from error

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()
