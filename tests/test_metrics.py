"""What --metrics tells, read by the client library of Prometheus."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nettrace import event, metrics
from nettrace.errors import UsageError
from nettrace.histogram import BUCKETS, Histogram, bucket


def of(*values: int) -> Histogram:
    counts = [0] * BUCKETS
    for value in values:
        counts[bucket(value)] += 1
    return Histogram(tuple(counts), sum(values))


COUNTED = metrics.Counted(
    drops={("NO_SOCKET", "udp_rcv+0x12"): 3, ("none", 'we"ird\\place\n'): 4},
    hits={"tcp_v4_send_reset": 2, "tcp_v6_send_reset": 3, "tcp_send_active_reset": 4, "tcp_reset": 5,
          "tcp_retransmit": 6, "tcp_retransmit_timer": 7, "ip_error": 0},
    counters={name: place for place, name in enumerate(event.COUNTERS)},
    round_trips=of(*[100] * 7, *[1 << 20] * 2, 1 << 30),
    transits={"in": of(10), "out": of()},
    attached=30,
    skipped=2,
)  # fmt: skip


def parsed(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return parsed(text)[f"nettrace_{name}", frozenset(labels.items())]


@pytest.fixture(scope="module")
def text() -> str:
    return metrics.text(metrics.families(COUNTED, "6.12.1", 0.25))


def test_labels_are_as_they_were(text: str) -> None:
    assert value(text, "drops_total", reason="NO_SOCKET", place="udp_rcv+0x12") == 3
    assert value(text, "drops_total", reason="none", place='we"ird\\place\n') == 4


def test_what_traces_mean_to_tcp(text: str) -> None:
    assert value(text, "tcp_resets_total", direction="sent") == 9
    assert value(text, "tcp_resets_total", direction="received") == 5
    assert value(text, "tcp_retransmissions_total") == 6
    assert value(text, "tcp_retransmission_timeouts_total") == 7
    assert value(text, "tcp_listen_overflows_total") == 0
    assert value(text, "trouble_total", trace="ip_error") == 0


def test_histograms_add_up(text: str) -> None:
    name = "tcp_rtt_seconds_bucket"
    assert value(text, name, le="6.4e-05") == 0
    assert value(text, name, le="0.000128") == 7
    assert value(text, name, le="1.048576") == 7  # below it, not it
    assert value(text, name, le="2.097152") == 9
    assert value(text, name, le="67.108864") == 9
    assert value(text, name, le="+Inf") == value(text, "tcp_rtt_seconds_count") == 10
    assert value(text, "tcp_rtt_seconds_sum") == pytest.approx((700 + (2 << 20) + (1 << 30)) / 1e6)
    assert value(text, "stack_seconds_count", direction="in") == 1
    assert value(text, "stack_seconds_count", direction="out") == 0


def test_each_metric_has_one_kind_and_a_help(text: str) -> None:
    found = list(text_string_to_metric_families(text))
    assert len({family.name for family in found}) == len(found)
    assert all(family.documentation and family.type in ("counter", "gauge", "histogram") for family in found)


def test_its_own_cost_and_losses(text: str) -> None:
    assert value(text, "bpf_cpu_ratio") == 0.25
    assert value(text, "cpu_seconds_total") > 0 and value(text, "memory_max_bytes") > 1 << 20
    assert value(text, "events_lost_total", why="buffer full") == event.COUNTERS.index("lost_messages")
    assert value(text, "traces", state="skipped") == 2
    assert "bpf_cpu_ratio" not in metrics.text(metrics.families(COUNTED, "6.12.1", None))


def test_drops_of_a_place_are_added_up() -> None:
    drops = {(2, 0x1000): 1, (2, 0x1001): 5, (event.NO_REASON, 0x1000): 7}
    found = metrics.totals_by_place(drops, lambda number: f"R{number}", lambda place: hex(place & ~1), event.NO_REASON)
    assert found == {("R2", "0x1000"): 6, ("none", "0x1000"): 7}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.measuring = 0
        self.run_time_ns = 0

    def measure(self) -> object:
        self.measuring += 1

        def stop() -> None:
            self.measuring -= 1

        return stop


def test_the_cost_is_measured_for_a_second_of_each_minute() -> None:
    clock = Clock()
    cost = metrics.Cost(clock.measure, lambda: clock.run_time_ns, lambda: clock.now)  # type: ignore[arg-type]
    measured = []
    for tick in range(300):
        clock.now = tick / 2
        clock.run_time_ns += 50_000_000 * clock.measuring  # a tenth of the time
        cost.tick()
        measured.append(clock.measuring)
        assert cost.ratio in (None, pytest.approx(0.1))
    assert cost.ratio is not None
    assert sum(measured) == 3 * 2  # three minutes
    cost.stop()
    assert clock.measuring == 0


@pytest.fixture
def ticks() -> threading.Event:
    return threading.Event()


@pytest.fixture
def served(ticks: threading.Event) -> Iterator[int]:
    exporter = metrics.exporter("0")
    assert isinstance(exporter, metrics.HttpExporter)
    with exporter.exported(lambda: "up 1\n", ticks.set):
        yield exporter.port


def test_http(served: int, ticks: threading.Event) -> None:
    client = http.client.HTTPConnection("127.0.0.1", served, timeout=10)
    client.request("GET", "/metrics")
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (200, b"up 1\n")
    assert answer.getheader("Content-Type", "").startswith("text/plain; version=0.0.4")
    client.close()
    client.request("GET", "/passwd")
    assert client.getresponse().status == 404
    client.close()
    assert ticks.wait(10)


def test_a_port_that_is_taken_is_refused(served: int) -> None:
    with pytest.raises(
        UsageError, match=rf"^--metrics: nothing can listen on 127.0.0.1 port {served}: Address already"
    ):
        metrics.exporter(str(served))


def test_only_loopback_unless_told_otherwise() -> None:
    exporter = metrics.exporter("0")
    assert isinstance(exporter, metrics.HttpExporter)
    elsewhere = ("127.0.0.2", exporter.port)
    with exporter.exported(lambda: "", lambda: None), pytest.raises(OSError):
        socket.create_connection(elsewhere, timeout=10)


def test_a_file_is_whole_whenever_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "nettrace.prom"
    path.symlink_to(tmp_path / "elsewhere")
    rendered = threading.Event()

    def render() -> str:
        rendered.set()
        return "up 1\n"

    with metrics.exporter(str(path)).exported(render, lambda: None):
        assert rendered.wait(10)
    assert path.read_text() == "up 1\n" and not path.is_symlink()
    assert not (tmp_path / "elsewhere").exists()
    assert os.listdir(tmp_path) == ["nettrace.prom"]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("nettrace", "needs a port, ADDRESS:PORT or a file such as nettrace.prom"),
        ("/nowhere/at/all.prom", "nothing can be written to /nowhere/at"),
        ("300.1.1.1:80", "'300.1.1.1' is no address"),
        ("99999", "nothing can listen on 127.0.0.1 port 99999"),
    ],
)
def test_what_cannot_be(target: str, why: str) -> None:
    with pytest.raises(UsageError, match="^--metrics.*" + why):
        metrics.exporter(target)
