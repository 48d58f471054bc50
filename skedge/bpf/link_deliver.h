/* Delivery to local sockets: which packets of the overlay have one, and how an endpoint's reach the workload's.
 *
 * A new connection is handed to the workload's listening socket as it is (bpf_sk_assign): the socket that comes of it
 * has the endpoint's own address, and the kernel finds it by itself from then on. Where that cannot be, destination
 * address and port are rewritten without any state, and link_egress writes the endpoint back as the source:
 *  - SO_REUSEPORT sockets before Linux 6.6, which bpf_sk_assign refuses;
 *  - a SYN to an old connection of the same ports in TIME_WAIT: the kernel recycles it only where it finds a listener
 *    under the packet's own destination (else the client needs a second SYN, ten milliseconds later). */
#ifndef SKEDGE_LINK_DELIVER_H
#define SKEDGE_LINK_DELIVER_H

#define STATE_LISTEN 10
#define STATE_TIME_WAIT 6
#define ESOCKTNOSUPPORT 94

/* Fill the tuple that a socket is looked up by, towards ``to``:``to_port``; returns its size. */
INLINE __u32 tuple(struct bpf_sock_tuple *t, const struct packet *p, const struct address *to, __u16 to_port)
{
	if (p->v6) {
		__builtin_memcpy(t->ipv6.saddr, &p->from, 16);
		__builtin_memcpy(t->ipv6.daddr, to, 16);
		t->ipv6.sport = bpf_htons(p->from_port);
		t->ipv6.dport = bpf_htons(to_port);
		return sizeof(t->ipv6);
	}
	t->ipv4.saddr = p->from.word[0];
	t->ipv4.daddr = to->word[0];
	t->ipv4.sport = bpf_htons(p->from_port);
	t->ipv4.dport = bpf_htons(to_port);
	return sizeof(t->ipv4);
}

/* State of the TCP socket that packets to ``to``:``to_port`` reach, 0 for none. */
INLINE int tcp_state(struct __sk_buff *skb, const struct packet *p, const struct address *to, __u16 to_port)
{
	struct bpf_sock_tuple t = {};
	__u32 size = tuple(&t, p, to, to_port);
	struct bpf_sock *sk = bpf_skc_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	int state;

	if (!sk)
		return 0;
	state = sk->state;
	bpf_sk_release(sk);
	return state;
}

INLINE struct endpoint *find_endpoint(__u16 port, __u8 protocol)
{
	struct endpoint_key key = {.port = port, .protocol = protocol};

	return endpoints_v1.lookup(&key);
}

/* Where a packet for an endpoint is looked up: the workload's host, or, for a packet of the other family, that
 * family's loopback (a workload on loopback) or no address (finds only sockets bound to every address). */
INLINE void workload_address(const struct endpoint *e, int v6, struct address *to)
{
	__builtin_memset(to, 0, sizeof(*to));
	if (e->v6 == v6)
		*to = e->host;
	else if (is_loopback(&e->host, e->v6)) {
		if (v6)
			to->word[3] = bpf_htonl(1);
		else
			to->word[0] = bpf_htonl(0x7f000001);
	}
}

/* Where a packet for an endpoint is sent by rewriting. No device but lo takes ::1, so there only sockets bound to
 * every address are reached, under the overlay address. */
INLINE void rewritten_address(const struct link_config *config, const struct endpoint *e, int v6, struct address *to)
{
	workload_address(e, v6, to);
	if (v6 && (is_loopback(to, 1) || !to->word[0]))
		*to = config->overlay6;
	else if (!v6 && !to->word[0])
		*to = config->overlay4;
}

INLINE int rewrite_destination(struct __sk_buff *skb, const struct packet *p, const struct address *to, __u16 port)
{
	return rewrite(skb, p, p->l3 + (p->v6 ? 24 : 16), p->l4 + 2, &p->to, to, p->to_port, port);
}

INLINE int rewritten(struct __sk_buff *skb, const struct packet *p, const struct address *to, __u16 port)
{
	return rewrite_destination(skb, p, to, port) ? MALFORMED : 0;
}

/* Hand a SYN to the workload's listening socket. Returns 0, -1 when there is none, or why the kernel refused.
 * (Twins for TCP and UDP: one call site with either helper becomes an indirect call, which BPF has not.) */
INLINE int assign_tcp(struct __sk_buff *skb, const struct packet *p, const struct endpoint *e)
{
	struct bpf_sock_tuple t = {};
	struct address to;
	struct bpf_sock *sk;
	int error;

	workload_address(e, p->v6, &to);
	sk = bpf_skc_lookup_tcp(skb, &t, tuple(&t, p, &to, e->port), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return -1;
	error = sk->state == STATE_LISTEN ? bpf_sk_assign(skb, sk, 0) : -1;
	bpf_sk_release(sk);
	return error;
}

INLINE int assign_udp(struct __sk_buff *skb, const struct packet *p, const struct endpoint *e)
{
	struct bpf_sock_tuple t = {};
	struct address to;
	struct bpf_sock *sk;
	int error;

	workload_address(e, p->v6, &to);
	sk = bpf_sk_lookup_udp(skb, &t, tuple(&t, p, &to, e->port), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return -1;
	error = bpf_sk_assign(skb, sk, 0);
	bpf_sk_release(sk);
	return error;
}

/* The last packet of a handshake has no socket yet when the listener answered with a SYN cookie: hand it over too. */
INLINE int assign_cookie(struct __sk_buff *skb, const struct packet *p, const struct endpoint *e)
{
	struct bpf_sock_tuple t = {};
	struct address to;
	__u8 ip[IP6_LENGTH] = {}, tcp[20];
	struct bpf_sock *sk;
	int error = -1;

	if ((p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_ACK)
		return -1;
	if (bpf_skb_load_bytes(skb, p->l4, tcp, sizeof(tcp)))
		return -1;
	if (p->v6 ? bpf_skb_load_bytes(skb, p->l3, ip, IP6_LENGTH) : bpf_skb_load_bytes(skb, p->l3, ip, IP4_LENGTH))
		return -1;
	workload_address(e, p->v6, &to);
	sk = bpf_skc_lookup_tcp(skb, &t, tuple(&t, p, &to, e->port), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return -1;
	if (sk->state == STATE_LISTEN && !bpf_tcp_check_syncookie(sk, ip, p->v6 ? IP6_LENGTH : IP4_LENGTH, tcp, sizeof(tcp)))
		error = bpf_sk_assign(skb, sk, 0);
	bpf_sk_release(sk);
	return error;
}

/* A TCP packet to this site's overlay address. */
INLINE int deliver_tcp(struct __sk_buff *skb, const struct link_config *config, const struct packet *p)
{
	int state = tcp_state(skb, p, &p->to, p->to_port);
	int fresh = (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
	struct endpoint *e;
	struct address to;
	int through, error;

	if (state && state != STATE_LISTEN && state != STATE_TIME_WAIT)
		return 0;
	e = find_endpoint(p->to_port, IPPROTO_TCP);
	if (!e) {
		if (state == STATE_TIME_WAIT)
			return 0;
		if (fresh)
			return NOT_PUBLISHED;
		/* An endpoint still sends to a socket that is gone (this host was restarted): tell it so. */
		return !state && in_endpoint_range(config, p->from_port) ? REFUSED | NO_SOCKET : NO_SOCKET;
	}
	if (e->flags & ENDPOINT_ELSEWHERE)
		return TO_NAT;
	rewritten_address(config, e, p->v6, &to);
	through = tcp_state(skb, p, &to, e->port);
	if (through && through != STATE_LISTEN)
		return rewritten(skb, p, &to, e->port);
	if (state == STATE_TIME_WAIT)
		return fresh && through ? rewritten(skb, p, &to, e->port) : 0;
	if (!fresh)
		return assign_cookie(skb, p, e) ? REFUSED | NO_SOCKET : 0;
	error = assign_tcp(skb, p, e);
	if (!error)
		return 0;
	if (error == -ESOCKTNOSUPPORT && through)
		return rewritten(skb, p, &to, e->port);
	return state ? NOT_PUBLISHED : REFUSED | WORKLOAD_CLOSED; /* never to a stranger who bound the endpoint's port */
}

/* Whether a UDP packet reaches a socket that may have it: one connected to the sender, or one that has sent to an
 * endpoint before and gets this from the endpoint range. A mere bound socket is some other service of the host. */
INLINE int udp_client(struct __sk_buff *skb, const struct link_config *config, const struct packet *p)
{
	struct bpf_sock_tuple t = {};
	__u32 size = tuple(&t, p, &p->to, p->to_port);
	struct bpf_sock *sk = bpf_sk_lookup_udp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	int known;

	if (!sk)
		return 0;
	known = sk->dst_port != 0;
	if (!known && in_endpoint_range(config, p->from_port))
		known = link_udp_clients_v1.sk_storage_get(sk, 0, 0) != 0;
	bpf_sk_release(sk);
	return known;
}

/* A UDP packet to this site's overlay address. */
INLINE int deliver_udp(struct __sk_buff *skb, const struct link_config *config, const struct packet *p)
{
	struct endpoint *e = find_endpoint(p->to_port, IPPROTO_UDP);
	struct address to;
	int error;

	if (e) {
		if (e->flags & ENDPOINT_ELSEWHERE)
			return TO_NAT;
		error = assign_udp(skb, p, e);
		if (!error)
			return 0;
		if (error != -ESOCKTNOSUPPORT)
			return REFUSED | WORKLOAD_CLOSED;
		rewritten_address(config, e, p->v6, &to);
		return rewritten(skb, p, &to, e->port);
	}
	if (p->to_port == config->load_port || udp_client(skb, config, p))
		return 0;
	return in_endpoint_range(config, p->from_port) ? NO_SOCKET : NOT_PUBLISHED;
}

/* Give the packet that an ICMP error quotes the workload's own address and port as its source: under the endpoint's
 * the kernel would find no socket. The quoted IPv4 header's checksum takes up the change of the address, so the ICMP
 * checksum sees only the port; over IPv6 it sees both. */
INLINE int translate_quoted(struct __sk_buff *skb, const struct packet *p, const struct packet *quoted,
			    const struct address *workload, __u16 workload_port)
{
	struct address from = quoted->from, to = *workload;
	__u16 old_port = bpf_htons(quoted->from_port), new_port = bpf_htons(workload_port);
	__u32 size = p->v6 ? 16 : 4, sum_at = p->l4 + 2;
	__u32 diff = checksum_change(&from, &to, size);

	if (bpf_l4_csum_replace(skb, sum_at, old_port, new_port, 2))
		return MALFORMED;
	if (p->v6 ? bpf_l4_csum_replace(skb, sum_at, 0, diff, 0) : bpf_l3_csum_replace(skb, quoted->l3 + 10, 0, diff, 0))
		return MALFORMED;
	if (bpf_skb_store_bytes(skb, quoted->l4, &new_port, sizeof(new_port), 0))
		return MALFORMED;
	return bpf_skb_store_bytes(skb, quoted->l3 + (p->v6 ? 8 : 12), &to, size, 0) ? MALFORMED : 0;
}

/* ``quoted`` is the packet that an ICMP error is about: it must be from a socket of ours, or of a workload that is
 * reached by rewriting (or by UDP). */
INLINE int check_quoted(struct __sk_buff *skb, const struct link_config *config, const struct packet *p,
			const struct packet *quoted)
{
	struct packet back = {.v6 = quoted->v6, .from = quoted->to, .to = quoted->from};
	struct endpoint *e;
	struct address to;
	int state;

	back.from_port = quoted->to_port;
	back.to_port = quoted->from_port;
	if (quoted->protocol == IPPROTO_TCP) {
		state = tcp_state(skb, &back, &back.to, back.to_port);
		if (state && state != STATE_LISTEN)
			return 0;
	} else if (udp_client(skb, config, &back)) {
		return 0;
	}
	e = find_endpoint(quoted->from_port, quoted->protocol);
	if (!e || e->flags & ENDPOINT_ELSEWHERE)
		return NO_SOCKET;
	workload_address(e, p->v6, &to);
	if (quoted->protocol == IPPROTO_TCP) {
		rewritten_address(config, e, p->v6, &to);
		state = tcp_state(skb, &back, &to, e->port);
		if (!state || state == STATE_LISTEN)
			return NO_SOCKET;
	} else if (!to.word[0] && !to.word[3]) {
		to = quoted->from; /* bound to every address */
	}
	return translate_quoted(skb, p, quoted, &to, e->port);
}

#endif
