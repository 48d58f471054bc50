/* Delivery of TCP to sockets of this host: which packets have one, and how an endpoint's reach the workload's.
 *
 * A new connection is handed to the workload's listening socket as it is (bpf_sk_assign): the socket that comes of it
 * has the endpoint's own address, and the kernel finds it by itself from then on. SO_REUSEPORT sockets before Linux 6.6
 * cannot be assigned: for them destination address and port are rewritten without any state, and link_egress writes the
 * endpoint back as the source. Their endpoint is marked, so that link/fast_path.h leaves its packets to the checks here. */
#ifndef SKEDGE_LINK_DELIVER_TCP_H
#define SKEDGE_LINK_DELIVER_TCP_H

#define ESOCKTNOSUPPORT 94
#define NANOSECONDS_A_SECOND 1000000000ull
#define COOKIES_LAST_S 121 /* the kernel's TCP_SYNCOOKIE_VALID, and the second that has begun */
#define BATCHES 32 /* so many SYNs may be judged before the first of them is in the queue (four batches of GRO) */
#define RECYCLED_MARK 0x736b7477u /* skb->mark of a SYN that comes in for the second time */

/* Offsets in the running kernel's structs, found in its BTF by the loader. */
#ifndef OFF_TIME_WAIT_NEXT
#error "the loader defines OFF_TIME_WAIT_NEXT, OFF_HALF_OPEN and OFF_MAX_ACK_BACKLOG"
#endif

INLINE __u32 endpoint_mark_lookup(__u32 port)
{
	__u32 *mark = endpoint_marks_v1.lookup(&port);

	return mark ? *mark : 0;
}

INLINE __u32 mark_time(void)
{
	return (__u32)(bpf_ktime_get_coarse_ns() / NANOSECONDS_A_SECOND) << MARK_TIME_SHIFT;
}

/* Let the checks see all packets to an endpoint from now on. */
INLINE void endpoint_mark_set(__u32 port, __u32 how)
{
	__u32 *mark = endpoint_marks_v1.lookup(&port), is;

	if (!mark)
		return;
	is = MARK_PUBLISHED | MARK_LOOKUP | (*mark & MARK_REWRITTEN) | how | mark_time();
	if (*mark != is)
		*mark = is;
}

/* Take the mark back once no cookie can come any more: the kernel takes none that is older than two minutes. Rewritten
 * connections need theirs for as long as they live, and nobody knows how many there are. Should another processor set it
 * at the same moment, the next SYN sets it again. */
INLINE void endpoint_mark_age(__u32 port, __u32 is)
{
	__u32 *mark = endpoint_marks_v1.lookup(&port);

	if (!mark || *mark != is || !(is & MARK_LOOKUP) || is & (MARK_REWRITTEN | MARK_NAT))
		return;
	if ((mark_time() - (is & ~MARK_FLAGS)) >> MARK_TIME_SHIFT > COOKIES_LAST_S)
		*mark = MARK_PUBLISHED;
}

/* Whether the listener may answer this SYN, or one that comes at the same time, with a cookie: its queue of half open
 * connections fills up. Then the last packet of the handshake finds no socket. */
INLINE int listener_may_send_cookie(const struct link_config *config, struct bpf_sock *listener)
{
	void *sk = bpf_skc_to_tcp_sock(listener);
	__u32 limit;

	if (!sk || config->flags & LINK_COOKIES_ALWAYS)
		return 1;
	limit = *(__u32 *)(sk + OFF_MAX_ACK_BACKLOG);
	return limit < BATCHES || *(__u32 *)(sk + OFF_HALF_OPEN) >= limit / 4;
}

/* Hand a SYN to the workload's listening socket. Returns 0, -1 when there is none, or why the kernel refused. */
INLINE int tcp_assign(struct __sk_buff *skb, const struct link_config *config, const struct packet *p,
		      const struct endpoint *e)
{
	struct bpf_sock_tuple t = {};
	struct address to;
	struct bpf_sock *sk;
	int error;

	endpoint_workload_address(e, p->v6, &to);
	sk = bpf_skc_lookup_tcp(skb, &t, tuple_fill(&t, p, &to, e->port), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return -1;
	error = sk->state == STATE_LISTEN ? bpf_sk_assign(skb, sk, 0) : -1;
	if (!error && listener_may_send_cookie(config, sk))
		endpoint_mark_set(p->to_port, 0);
	bpf_sk_release(sk);
	return error;
}

/* The last packet of a handshake has no socket yet when the listener answered with a SYN cookie: hand it over too. */
INLINE int tcp_assign_cookie(struct __sk_buff *skb, const struct packet *p, const struct endpoint *e)
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
	endpoint_workload_address(e, p->v6, &to);
	sk = bpf_skc_lookup_tcp(skb, &t, tuple_fill(&t, p, &to, e->port), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return -1;
	if (sk->state == STATE_LISTEN && !bpf_tcp_check_syncookie(sk, ip, p->v6 ? IP6_LENGTH : IP4_LENGTH, tcp, sizeof(tcp)))
		error = bpf_sk_assign(skb, sk, 0);
	bpf_sk_release(sk);
	return error;
}

/* The sequence number that an old connection in TIME_WAIT would take next; 0 with *found unset when there is none. */
INLINE __u32 tcp_old_sequence(struct __sk_buff *skb, const struct packet *p, int *found)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sk = bpf_skc_lookup_tcp(skb, &t, tuple_fill(&t, p, &p->to, p->to_port), BPF_F_CURRENT_NETNS, 0);
	__u32 next = 0;
	void *old;

	if (!sk)
		return 0;
	old = bpf_skc_to_tcp_timewait_sock(sk);
	if (old) {
		next = *(__u32 *)(old + OFF_TIME_WAIT_NEXT);
		*found = 1;
	}
	bpf_sk_release(sk);
	return next;
}

/* A SYN to an old connection of the same ports in TIME_WAIT. The kernel would recycle that only where it finds a
 * listener under the packet's own destination, and lets nobody in beside it. So the SYN comes in once more, behind
 * itself made into the reset that ends the old connection (RFC 1337 names the hazard). The reset has no options: two
 * clients of a LAN that get the same NAT port one after the other have nothing in common in their time stamps, by which
 * the kernel would take it for an old one. What is still in TIME_WAIT then is left to the kernel. */
INLINE int tcp_recycle(struct __sk_buff *skb, const struct packet *p)
{
	__u32 sequence = 0, next, mark = skb->mark;
	__u16 flags = 0, reset, option = 0, none;
	int found = 0;

	if (mark == RECYCLED_MARK)
		return 0;
	next = bpf_htonl(tcp_old_sequence(skb, p, &found));
	if (!found || bpf_skb_load_bytes(skb, p->l4 + 4, &sequence, 4) || bpf_skb_load_bytes(skb, p->l4 + 12, &flags, 2))
		return 0;
	skb->mark = RECYCLED_MARK;
	if (bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS))
		return 0;
	skb->mark = mark;
	reset = flags ^ bpf_htons(TCP_SYN | TCP_RST);
	if (bpf_l4_csum_replace(skb, p->l4 + 16, sequence, next, 4) || bpf_l4_csum_replace(skb, p->l4 + 16, flags, reset, 2))
		return REASON_MALFORMED;
	if (bpf_skb_store_bytes(skb, p->l4 + 4, &next, 4, 0) || bpf_skb_store_bytes(skb, p->l4 + 12, &reset, 2, 0))
		return REASON_MALFORMED;
	if ((bpf_ntohs(flags) >> 12) <= 5 || bpf_skb_load_bytes(skb, p->l4 + 20, &option, 2))
		return 0;
	none = option & bpf_htons(0xff); /* the first option: end of options */
	if (bpf_l4_csum_replace(skb, p->l4 + 16, option, none, 2) || bpf_skb_store_bytes(skb, p->l4 + 20, &none, 2, 0))
		return REASON_MALFORMED;
	return 0;
}

/* A TCP packet to a port of this site's overlay address that is no endpoint. */
INLINE int tcp_check_stray(const struct link_config *config, const struct packet *p, int state, int fresh)
{
	if (fresh)
		return REASON_NOT_PUBLISHED;
	if (state == STATE_TIME_WAIT)
		return 0;
	/* An endpoint still sends to a socket that is gone (this host was restarted): tell it so. Of other ports, where
	 * servers listen, nobody is told which are open. */
	if (!state && port_is_endpoint(config, p->from_port) && port_is_ephemeral(config, p->to_port))
		return REFUSED | REASON_NO_SOCKET;
	return REASON_NO_SOCKET;
}

/* Whether packets of connections are to be looked for under the workload's own address. While another engine's
 * connections go on, only where this one is known to rewrite: to those the kernel's connection tracking leads. */
INLINE int endpoint_is_rewritten(const struct link_config *config, __u32 mark)
{
	return mark & (config->flags & LINK_LEFT ? MARK_REWRITTEN : MARK_LOOKUP);
}

/* Give a packet to the workload by rewriting, if a socket is there under its own address: a listening one, or one that
 * is not. Returns -1 when there is none. */
INLINE int tcp_rewrite(struct __sk_buff *skb, const struct link_config *config, const struct packet *p,
		       const struct endpoint *e, int listening)
{
	struct address to;
	int state;

	endpoint_rewrite_address(config, e, p->v6, &to);
	state = tcp_socket_state(skb, p, &to, e->port);
	if (!state || (state == STATE_LISTEN) != listening)
		return -1;
	return packet_deliver_rewritten(skb, p, &to, e->port);
}

/* A TCP packet to this site's overlay address that link/fast_path.h did not let pass. */
INLINE int tcp_deliver(struct __sk_buff *skb, const struct link_config *config, const struct packet *p)
{
	int fresh = (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN, error, through;
	int state = tcp_socket_state(skb, p, &p->to, p->to_port);
	__u32 mark = endpoint_mark_lookup(p->to_port);
	struct endpoint *e;

	endpoint_mark_age(p->to_port, mark);
	if (state && state != STATE_LISTEN && state != STATE_TIME_WAIT)
		return 0;
	e = endpoint_lookup(p->to_port, IPPROTO_TCP);
	if (!e)
		return tcp_check_stray(config, p, state, fresh);
	if (e->flags & ENDPOINT_OFF_HOST)
		return TO_NAT;
	if (config->flags & LINK_YIELDS && fresh)
		return 0;
	if (endpoint_is_rewritten(config, mark)) {
		through = tcp_rewrite(skb, config, p, e, 0);
		if (through >= 0)
			return through;
	}
	if (state == STATE_TIME_WAIT)
		return fresh ? tcp_recycle(skb, p) : 0;
	if (!fresh)
		return tcp_assign_cookie(skb, p, e) ? REFUSED | REASON_NO_SOCKET : 0;
	skb->mark = skb->mark == RECYCLED_MARK ? 0 : skb->mark;
	error = tcp_assign(skb, config, p, e);
	if (!error)
		return 0;
	if (error == -ESOCKTNOSUPPORT) {
		endpoint_mark_set(p->to_port, MARK_REWRITTEN);
		through = tcp_rewrite(skb, config, p, e, 1);
		if (through >= 0)
			return through;
	}
	/* never to a stranger who bound the endpoint's port */
	return state ? REASON_NOT_PUBLISHED : REFUSED | REASON_WORKLOAD_CLOSED;
}

#endif
