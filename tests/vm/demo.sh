#!/usr/bin/env bash
# What 'make demo' runs inside the VM: a ping from a client, through a router that does
# NAT, to a server, and nettrace following its packets.
set -eu

for host in client router server; do
	ip netns add $host
	ip -n $host link set lo up
done
ip link add eth0 netns client type veth peer name lan netns router
ip link add eth0 netns server type veth peer name wan netns router
ip -n client addr add 10.0.1.2/24 dev eth0
ip -n router addr add 10.0.1.1/24 dev lan
ip -n router addr add 10.0.42.1/24 dev wan
ip -n server addr add 10.0.42.2/24 dev eth0
for link in client:eth0 router:lan router:wan server:eth0; do
	ip -n ${link%:*} link set ${link#*:} up
done
ip -n client route add default via 10.0.1.1
ip netns exec router sysctl -qw net.ipv4.ip_forward=1
ip netns exec router iptables -t nat -A POSTROUTING -o wan -j MASQUERADE

command=(nettrace -p icmp --addr 10.0.42.2 -c 2)
echo
echo "A client (10.0.1.2) pings a server (10.0.42.2) through a router that masquerades it as 10.0.42.1."
echo "Kernel $(uname -r), no kernel headers installed: $(ls -d /usr/src/linux-headers* 2>/dev/null || echo none)"
echo
echo "# ${command[*]}"
python3 -m "${command[@]}" > /tmp/out 2> /tmp/err &
tracer=$!
tail -n +1 -f --pid=$tracer /tmp/out &
printer=$!
until grep -q 'begin trace' /tmp/out; do
	kill -0 $tracer || { cat /tmp/err; exit 1; }
	sleep 0.1
done
ip netns exec client ping -c 1 10.0.42.2 > /tmp/ping
wait $tracer
wait $printer
cat /tmp/err
echo
echo "# ping -c 1 10.0.42.2        (what the client saw)"
cat /tmp/ping
