"""Names and limits that the options share with what they are for."""

# What -o knows, and what --detail stands for; the skb of --detail comes before the trace, where it always was.
COLUMNS = ("id", "cpu", "if", "netns", "pid", "group", "mark", "len")
DETAIL_COLUMNS = ("cpu", "if", "pid", "netns")

# The function that learns of round trips.
RTT_FUNCTION = "tcp_ack_update_rtt"

SNAPLEN_MAX = 2048  # bytes of a packet; the number of their slots is in 8 bits, and they are kept with it
