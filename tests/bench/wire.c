/* Client and server for measuring: as little of their own as possible, so that what is measured is the kernel.
 *
 *   wire serve PORT [PORT ...]              a thread a connection; the first byte says what is wanted
 *   wire conn HOST PORT N                   N times: connect, send a byte, read the answer, read the end, close
 *   wire turn HOST PORT N                   one connection, N times a byte there and back
 *   wire stream HOST PORT SECONDS           one connection, as many bytes as go through
 *   wire many HOST PORT N                   as conn, from eight threads at once
 *   wire idle HOST PORT N                   open N connections and hold them until standard input ends
 *
 * conn and turn print: p50 and p99 in ns, operations a second. stream prints bytes a second, many connections a second,
 * idle the number that it holds, as soon as it holds them.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BLOCK (256 * 1024)
#define CALLERS 8

static int idle_ones;			/* epoll: held connections of all ports, which need no thread */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void no_delay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void serve_one(int fd)
{
	static __thread char block[BLOCK];
	char kind;
	ssize_t n;

	no_delay(fd);
	if (read(fd, &kind, 1) == 1) {
		if (kind == '?') {		/* one answer; this end closes first, so TIME_WAIT is not the client's */
			if (write(fd, "!", 1) != 1)
				perror("answer");
		} else if (kind == '.') {
			while ((n = read(fd, block, 1)) == 1 && write(fd, block, 1) == 1)
				;
		} else {
			while ((n = read(fd, block, sizeof(block))) > 0)
				;
		}
	}
	close(fd);
}

static void *serve_idle(void *arg)
{
	struct epoll_event ended;

	while (epoll_wait(idle_ones, &ended, 1, -1) > 0 || errno == EINTR)
		close(ended.data.fd);		/* a held one says nothing: what happens is its end */
	return arg;
}

static int hold(int fd)
{
	struct epoll_event end = { .events = EPOLLIN | EPOLLRDHUP, .data.fd = fd };
	char kind;

	return read(fd, &kind, 1) == 1 && write(fd, "!", 1) == 1 && !epoll_ctl(idle_ones, EPOLL_CTL_ADD, fd, &end);
}

static void *serve_held(void *arg)
{
	serve_one((int)(intptr_t)arg);
	return NULL;
}

static void *serve(void *arg)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons((intptr_t)arg) };
	int one = 1, fd, s = socket(AF_INET, SOCK_STREAM, 0);

	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(s, (struct sockaddr *)&any, sizeof(any)) || listen(s, 4096))
		die("listen");
	while ((fd = accept(s, NULL, NULL)) >= 0 || errno == ECONNABORTED) {
		pthread_t thread;
		char kind = 0;

		if (fd < 0)
			continue;
		/* short ones are served here: making a thread would cost more than what is measured */
		if (recv(fd, &kind, 1, MSG_PEEK) == 1 && kind == '?') {
			serve_one(fd);
		} else if (kind == 'i') {
			if (!hold(fd))
				close(fd);
		} else if (!pthread_create(&thread, NULL, serve_held, (void *)(intptr_t)fd)) {
			pthread_detach(thread);
		}
	}
	die("accept");
	return NULL;
}

static int dial(const struct sockaddr_in *to)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	no_delay(fd);
	if (fd < 0 || connect(fd, (const struct sockaddr *)to, sizeof(*to)))
		die("connect");
	return fd;
}

static int ascending(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static void tell(int64_t *took, int n, int64_t all)
{
	qsort(took, n, sizeof(*took), ascending);
	printf("%lld %lld %.1f\n", (long long)took[n / 2], (long long)took[(int)(n * 0.99)], n * 1e9 / all);
}

static void conn(const struct sockaddr_in *to, int n)
{
	int64_t *took = calloc(n, sizeof(*took)), begin = now(), start;
	char byte;

	for (int i = 0; i < n; i++) {
		start = now();
		int fd = dial(to);

		if (write(fd, "?", 1) != 1 || read(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 0)
			die("request");
		close(fd);
		took[i] = now() - start;
	}
	tell(took, n, now() - begin);
}

struct caller {
	const struct sockaddr_in *to;
	pthread_t thread;
	int n;
};

static void *call(void *arg)
{
	struct caller *caller = arg;
	char byte;

	for (int i = 0; i < caller->n; i++) {
		int fd = dial(caller->to);

		if (write(fd, "?", 1) != 1 || read(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 0)
			die("request");
		close(fd);
	}
	return NULL;
}

static void many(const struct sockaddr_in *to, int n)
{
	struct caller callers[CALLERS];
	int64_t begin = now();

	for (int i = 0; i < CALLERS; i++) {
		callers[i] = (struct caller){ .to = to, .n = n / CALLERS };
		if (pthread_create(&callers[i].thread, NULL, call, &callers[i]))
			die("thread");
	}
	for (int i = 0; i < CALLERS; i++)
		pthread_join(callers[i].thread, NULL);
	printf("%.1f\n", (n / CALLERS) * CALLERS * 1e9 / (now() - begin));
}

static void idle(const struct sockaddr_in *to, int n)
{
	struct linger reset = { .l_onoff = 1 };		/* at the end nothing stays, not even TIME_WAIT */
	char byte;

	for (int i = 0; i < n; i++) {
		int fd = dial(to);

		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		if (write(fd, "i", 1) != 1 || read(fd, &byte, 1) != 1)
			die("idle");
	}
	printf("%d\n", n);
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
}

static void turn(const struct sockaddr_in *to, int n)
{
	int64_t *took = calloc(n, sizeof(*took)), begin, start;
	int fd = dial(to);
	char byte;

	if (write(fd, ".", 1) != 1)
		die("turn");
	begin = now();
	for (int i = 0; i < n; i++) {
		start = now();
		if (write(fd, "x", 1) != 1 || read(fd, &byte, 1) != 1)
			die("turn");
		took[i] = now() - start;
	}
	tell(took, n, now() - begin);
}

static void stream(const struct sockaddr_in *to, double seconds)
{
	static char block[BLOCK];
	int64_t bytes = 0, begin, end;
	int fd = dial(to);
	ssize_t n;

	/* the default may be BBR, which paces itself far below what a veth carries; only the sender's matters */
	if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5))
		die("cubic");
	memset(block, 's', sizeof(block));
	begin = now();
	end = begin + (int64_t)(seconds * 1e9);
	while (now() < end) {
		n = write(fd, block, sizeof(block));
		if (n < 0)
			die("stream");
		bytes += n;
	}
	printf("%.0f\n", bytes * 1e9 / (now() - begin));
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	struct rlimit files;

	signal(SIGPIPE, SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (argc >= 3 && !strcmp(argv[1], "serve")) {
		pthread_t thread;

		idle_ones = epoll_create1(0);
		if (idle_ones < 0 || pthread_create(&thread, NULL, serve_idle, NULL))
			die("idle");
		for (int i = 3; i < argc; i++)
			if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)atoi(argv[i])))
				die("thread");
		serve((void *)(intptr_t)atoi(argv[2]));
	}
	if (argc != 5 || inet_pton(AF_INET, argv[2], &to.sin_addr) != 1) {
		fprintf(stderr, "usage: wire serve PORT ... | wire conn|turn|stream|many|idle HOST PORT N\n");
		return 2;
	}
	to.sin_port = htons(atoi(argv[3]));
	if (!strcmp(argv[1], "conn"))
		conn(&to, atoi(argv[4]));
	else if (!strcmp(argv[1], "turn"))
		turn(&to, atoi(argv[4]));
	else if (!strcmp(argv[1], "many"))
		many(&to, atoi(argv[4]));
	else if (!strcmp(argv[1], "idle"))
		idle(&to, atoi(argv[4]));
	else
		stream(&to, atof(argv[4]));
	return 0;
}
