"""What an exchange can wait for. A phase is not a reason code, but it names the reason if its time runs out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Phase:
    """Something to wait for. `reason`: the code if it does not come in time. `of_client`: whether the proxy waits for the client."""

    name: str
    reason: str
    of_client: bool = False


#: Nothing has been waited for yet.
START = Phase("start", "")
QUEUE = Phase("a place at the upstream", "queue_timeout")
HOLD = Phase("a backend that is back", "hold_timeout")
CONNECT = Phase("connect", "connect_timeout")
REQUEST_BODY = Phase("request body from the client", "body_timeout", True)
REQUEST_SEND = Phase("request body to the upstream", "request_send")
RESPONSE_HEAD = Phase("response head", "timeout")
RESPONSE_BODY = Phase("response body", "read_timeout")
RESPONSE_WRITE = Phase("response to the client", "response_write", True)
#: The client sends or reads, but at less than the least rate.
REQUEST_RATE = Phase("a faster request", "request_too_slow", True)
RESPONSE_RATE = Phase("a faster reader", "reading_too_slow", True)
WEBSOCKET_IDLE = Phase("websocket", "idle_timeout")
WEBSOCKET_END = Phase("end of a websocket", "idle_timeout")
#: The time for the whole exchange has run out, whatever it was waiting for.
TOTAL = Phase("all of it", "total_timeout")
