/* Looking sockets up for packets of the overlay: own sockets, and the workload behind an endpoint. */
#ifndef SKEDGE_LINK_SK_LOOKUP_H
#define SKEDGE_LINK_SK_LOOKUP_H

#define STATE_LISTEN 10
#define STATE_TIME_WAIT 6

/* Fill the tuple that a socket is looked up by, towards ``to``:``to_port``; returns its size. */
INLINE __u32 tuple_fill(struct bpf_sock_tuple *t, const struct packet *p, const struct address *to, __u16 to_port)
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
INLINE int tcp_socket_state(struct __sk_buff *skb, const struct packet *p, const struct address *to, __u16 to_port)
{
	struct bpf_sock_tuple t = {};
	__u32 size = tuple_fill(&t, p, to, to_port);
	struct bpf_sock *sk = bpf_skc_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	int state;

	if (!sk)
		return 0;
	state = sk->state;
	bpf_sk_release(sk);
	return state;
}

INLINE struct endpoint *endpoint_lookup(__u16 port, __u8 protocol)
{
	struct endpoint_key key = {.port = port, .protocol = protocol};

	return endpoints_v1.lookup(&key);
}

/* Where a packet for an endpoint is looked up: the workload's host, or, for a packet of the other family, that
 * family's loopback (a workload on loopback) or no address (finds only sockets bound to every address). */
INLINE void endpoint_workload_address(const struct endpoint *e, int v6, struct address *to)
{
	__builtin_memset(to, 0, sizeof(*to));
	if (e->v6 == v6)
		*to = e->host;
	else if (address_is_loopback(&e->host, e->v6)) {
		if (v6)
			to->word[3] = bpf_htonl(1);
		else
			to->word[0] = bpf_htonl(0x7f000001);
	}
}

/* Where a packet for an endpoint is sent by rewriting. No device but lo takes ::1, so there only sockets bound to
 * every address are reached, under the overlay address. */
INLINE void endpoint_rewrite_address(const struct link_config *config, const struct endpoint *e, int v6,
				     struct address *to)
{
	endpoint_workload_address(e, v6, to);
	if (v6 && (address_is_loopback(to, 1) || !to->word[0]))
		*to = config->overlay6;
	else if (!v6 && !to->word[0])
		*to = config->overlay4;
}

INLINE int packet_rewrite_destination(struct __sk_buff *skb, const struct packet *p, const struct address *to,
				      __u16 port)
{
	return packet_rewrite(skb, p, p->l3 + (p->v6 ? 24 : 16), p->l4 + 2, &p->to, to, p->to_port, port);
}

/* skb->mark of a packet that was given a workload's address here: the only ones from a link that may reach such
 * (dataplane/nftables/arrivals.py takes it off again). */
#define REWRITTEN_MARK 0x736b7277u

INLINE int packet_deliver_rewritten(struct __sk_buff *skb, const struct packet *p, const struct address *to, __u16 port)
{
	if (packet_rewrite_destination(skb, p, to, port))
		return REASON_MALFORMED;
	skb->mark = REWRITTEN_MARK;
	return 0;
}

#endif
