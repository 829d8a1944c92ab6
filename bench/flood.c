// SPDX-License-Identifier: GPL-2.0-only
/*
 * The benchmarks' traffic: small UDP packets, as fast as one sender can or at a rate, for a
 * limited time, and somebody who takes them.
 *
 *   flood send ADDRESS PORT SECONDS RATE	RATE packets a second, 0: no limit; prints how many and for how long
 *   flood take ADDRESS PORT		prints "ready", then takes them until it is ended
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAYLOAD 64
#define BATCH 64
#define SECONDS_MAX 3600
#define LIFE_SECONDS 7200

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static int send_all(int sock, double seconds, double rate)
{
	double begin = now(), end = begin + seconds, time = begin;
	char payload[PAYLOAD] = "nettrace";
	long sent = 0, failed = 0;

	while (time < end) {
		int burst = 32;

		if (rate > 0)
			burst = (time - begin) * rate - (sent + failed);
		while (burst-- > 0) {
			if (send(sock, payload, sizeof(payload), 0) == sizeof(payload))
				sent++;
			else
				failed++;
		}
		if (rate > 0)
			usleep(500);
		time = now();
	}
	printf("%ld %ld %.6f\n", sent, failed, time - begin);
	return 0;
}

/* A taker that is late now and then must not cause drops: they would be what is measured. */
static int take_all(int sock)
{
	static char payloads[BATCH][PAYLOAD];
	static struct mmsghdr messages[BATCH];
	static struct iovec parts[BATCH];
	int size = 1 << 26, i;

	if (setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
		return fail("SO_RCVBUFFORCE");
	for (i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){ payloads[i], PAYLOAD };
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	alarm(LIFE_SECONDS);
	puts("ready");
	fflush(stdout);
	while (recvmmsg(sock, messages, BATCH, MSG_WAITFORONE, NULL) >= 0)
		;
	return fail("recvmmsg");
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	int sock = socket(AF_INET, SOCK_DGRAM, 0);
	int takes = argc == 4 && !strcmp(argv[1], "take");

	if (!takes && (argc != 6 || strcmp(argv[1], "send"))) {
		fputs("usage: flood send ADDRESS PORT SECONDS RATE | flood take ADDRESS PORT\n", stderr);
		return 2;
	}
	address.sin_port = htons(atoi(argv[3]));
	if (sock < 0 || inet_pton(AF_INET, argv[2], &address.sin_addr) != 1)
		return fail(argv[2]);
	if (takes)
		return bind(sock, (void *)&address, sizeof(address)) ? fail("bind") : take_all(sock);
	if (connect(sock, (void *)&address, sizeof(address)))
		return fail("connect");
	return send_all(sock, atof(argv[4]) < SECONDS_MAX ? atof(argv[4]) : SECONDS_MAX, atof(argv[5]));
}
