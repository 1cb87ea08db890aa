"""The watch that tells of one private address that makes nearly all requests."""

from __future__ import annotations

import msgspec

from gateway.channel.messages import Asked
from gateway.config.snapshot import Topology
from gateway.control.events import Events
from gateway.control.sharing import SharingWatch

LB = "10.0.0.7"


class Watched:
    """A watch with a clock and a topology of the test's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.topology = Topology(number=1)
        self.events = Events("e")
        self.watch = SharingWatch(lambda: self.topology, self.events, lambda: self.now)

    def hear(self, count: int, forwarded: int = 0, others: int = 0, address: str = LB) -> None:
        self.watch.hear(
            Asked(requests=count + others, address=address, of_address=count, forwarded=forwarded)
        )

    def told(self) -> list[dict[str, object]]:
        return [msgspec.json.decode(each.data) for each in self.events.since("nobody's")]


def test_it_is_told_once_and_when_it_is_over() -> None:
    seen = Watched()
    for _ in range(5):
        seen.hear(200, forwarded=200)
    assert [each["over"] for each in seen.told()] == [False]
    alert = seen.told()[0]
    assert (alert["severity"], alert["about"], alert["address"]) == (
        "warning",
        "shared-address",
        LB,
    )
    assert "trusted_proxies" in str(alert["hint"])
    assert len(seen.watch.warnings) == 1
    assert "10.0.0.7 makes 100% of 1000 requests" in seen.watch.warnings[0]
    seen.hear(0, others=500, address="")
    assert [each["over"] for each in seen.told()] == [False, True]
    assert seen.told()[1]["severity"] == "info"
    assert seen.watch.warnings == []


def test_a_proxy_that_is_trusted_from_now_on_ends_it_at_once() -> None:
    seen = Watched()
    seen.hear(500, forwarded=500)
    seen.topology = msgspec.structs.replace(seen.topology, trusted_proxies=("10.0.0.0/24",))
    assert seen.watch.warnings == []
    assert [each["over"] for each in seen.told()] == [False, True]


def test_what_to_do_about_it_depends_on_what_it_says() -> None:
    proxy, bridge, mute = Watched(), Watched(), Watched()
    proxy.hear(500, forwarded=500)
    bridge.hear(500)
    mute.topology = msgspec.structs.replace(mute.topology, trusted_proxies=("10.0.0.0/24",))
    mute.hear(500)
    assert 'add "10.0.0.7" to trusted_proxies' in proxy.watch.warnings[0]
    assert "container bridge" in bridge.watch.warnings[0]
    assert "does not say for whom" in mute.watch.warnings[0]


def test_another_address_is_told_anew() -> None:
    seen = Watched()
    seen.hear(500)
    seen.now = 400.0
    seen.hear(500, address="fd00::/64")
    assert [each["address"] for each in seen.told()] == [LB, "fd00::/64"]
