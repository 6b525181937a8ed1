"""Real instances, real etcd: one set time for all, canaries first; without an engine the local rule."""

from pathlib import Path

from tests.mesh.fleets import fleet
from tests.secondary.versions import FIRST

NEXT = FIRST + 1


def test_an_update_goes_to_the_canaries_and_then_to_all_at_one_t(tmp_path: Path) -> None:
    with fleet(tmp_path, 4) as running:
        running.publish(NEXT)
        running.wait_for_all(NEXT)
        (canary,) = running.orders("canary", NEXT)
        (order,) = running.orders("all", NEXT)
        flips = running.flips(NEXT)
        canaries, others = ({name: flips[name] for name in names} for names in (("m2", "m3"), ("m0", "m1")))
        assert order["at"] >= canary["at"] + running.mesh.roster.timing.soak
        for at, group in ((canary["at"], canaries), (order["at"], others)):
            print({name: round(1000 * (flipped - at), 1) for name, flipped in group.items()}, "ms after T")
            assert all(0 <= flipped - at < 0.5 for flipped in group.values())


def test_with_the_engine_gone_all_go_alone_at_one_t(tmp_path: Path) -> None:
    with fleet(tmp_path, 3) as running:
        running.engine.nodes[0].kill()
        running.wait(lambda: all(not running.ask(name)["engine"]["there"] for name in running.members), "engine gone")
        running.publish(NEXT)
        running.wait_for_all(NEXT)
        flips = list(running.flips(NEXT).values())
        print("spread", max(flips) - min(flips))
        align = running.mesh.roster.timing.align
        assert max(flips) - min(flips) < 3 * align  # one T, or one of the next multiples
        assert all(each.rcode() == 0 for each in running.members.values())
