/* Delivery of UDP to sockets of this host. */
#ifndef SKEDGE_LINK_DELIVER_UDP_H
#define SKEDGE_LINK_DELIVER_UDP_H

/* Hand a datagram to the workload's socket, as tcp_assign() does. (Twins: one call site with either helper becomes an
 * indirect call, which BPF has not.) */
INLINE int udp_assign(struct __sk_buff *skb, const struct packet *p, const struct endpoint *e)
{
	struct bpf_sock_tuple t = {};
	struct address to;
	struct bpf_sock *sk;
	int error;

	endpoint_workload_address(e, p->v6, &to);
	sk = bpf_sk_lookup_udp(skb, &t, tuple_fill(&t, p, &to, e->port), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return -1;
	error = bpf_sk_assign(skb, sk, 0);
	bpf_sk_release(sk);
	return error;
}

/* Whether a socket would take datagrams to ``to``:``to_port``. */
INLINE int udp_socket_exists(struct __sk_buff *skb, const struct packet *p, const struct address *to, __u16 to_port)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sk;

	sk = bpf_sk_lookup_udp(skb, &t, tuple_fill(&t, p, to, to_port), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	bpf_sk_release(sk);
	return 1;
}

/* Whether a UDP packet reaches a socket that may have it: one connected to the sender, or one that has sent to an
 * endpoint before and gets this from the endpoint range. A mere bound socket is some other service of the host.
 * -1: there is no socket at all. */
INLINE int udp_client_lookup(struct __sk_buff *skb, const struct link_config *config, const struct packet *p)
{
	struct bpf_sock_tuple t = {};
	__u32 size = tuple_fill(&t, p, &p->to, p->to_port);
	struct bpf_sock *sk = bpf_sk_lookup_udp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	int known;

	if (!sk)
		return -1;
	known = sk->dst_port != 0;
	if (!known && port_is_endpoint(config, p->from_port))
		known = link_udp_clients_v1.sk_storage_get(sk, 0, 0) != 0;
	bpf_sk_release(sk);
	return known;
}

/* A UDP packet to this site's overlay address. */
INLINE int udp_deliver(struct __sk_buff *skb, const struct link_config *config, const struct packet *p)
{
	struct endpoint *e = endpoint_lookup(p->to_port, IPPROTO_UDP);
	struct address to;
	int error, known;

	if (e) {
		if (e->flags & ENDPOINT_OFF_HOST)
			return TO_NAT;
		if (config->flags & LINK_YIELDS)
			return 0;
		error = udp_assign(skb, p, e);
		if (!error)
			return 0;
		if (error != -ESOCKTNOSUPPORT)
			return REFUSED | REASON_WORKLOAD_CLOSED;
		endpoint_rewrite_address(config, e, p->v6, &to);
		return packet_deliver_rewritten(skb, p, &to, e->port);
	}
	if (p->to_port == config->load_port)
		return 0;
	known = udp_client_lookup(skb, config, p);
	if (known > 0 || (known < 0 && config->flags & LINK_LEFT && port_is_endpoint(config, p->from_port)))
		return 0;
	return port_is_endpoint(config, p->from_port) ? REASON_NO_SOCKET : REASON_NOT_PUBLISHED;
}

#endif
