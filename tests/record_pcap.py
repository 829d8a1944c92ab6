"""Records what libpcap makes of the expressions in test_pcap, for machines without it.

python3 -m tests.record_pcap, where libpcap is installed, writes tests/data/pcap.json.
"""

import json
from pathlib import Path

from nettrace import pcap

RECORDED = Path(__file__).resolve().parent / "data" / "pcap.json"
EXPRESSIONS = (
    "tcp port 80",
    "host 10.0.0.1 and icmp",
    "ip6 and udp",
    "vlan 5",
    "vlan and icmp",
    "vlan and vlan 7 and icmp",
    "tcp[tcpflags] & tcp-syn != 0",
    "net 10.0.0.0/8 and not port 22",
    "greater 100",
    "arp",
    "ether src 02:00:00:00:00:01",
    "ether[6] = 2 and udp",
    "not ip and not ip6",
    "ip[0] / ip[8] = 1",
    "ip[2:2] - (ip[0] & 0xf) * 4 > 90",
    "ip[8] << 2 | 3 = 259",
    "ip[8] % 10 = 9",
    "ip[9] ^ 0x10 = 1",
    "ip[8] >> ip[1] = 69",
    "ip[2:2] + 14 = len",
    "udp[8:4] = 0x01020304",
    "udp[100] = 1",
)


def load() -> dict[str, tuple[pcap.Form, pcap.Form]]:
    """The forms of each expression."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    return {expression: (_form(l2), _form(l3)) for expression, (l2, l3) in recorded.items()}


def _form(lines: list[list[int]]) -> pcap.Form:
    return pcap.Form(tuple(pcap.Instruction(*line) for line in lines), "")


if __name__ == "__main__":
    forms = {expression: pcap.compile_expression(expression) for expression in EXPRESSIONS}
    lines = [
        f"  {json.dumps(expression)}: {json.dumps([both[0].instructions, both[1].instructions])}"
        for expression, both in forms.items()
    ]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
