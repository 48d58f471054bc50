/* Fragments on links: to sockets of this host, and from them. A fragment is no datagram that a socket could be assigned
 * to, so the kernel puts them together at the workload's own address, where the workload is found by itself. */
#ifndef SKEDGE_LINK_FRAGMENTS_H
#define SKEDGE_LINK_FRAGMENTS_H

#include "link/fragments_rewrite.h"

/* Give a fragment its new receiver. Each bears the mark of that: the datagram has the one of any. */
INLINE int fragment_send_to(struct __sk_buff *skb, const struct packet *p, const struct fragment *f,
			    const struct fragment_way *way)
{
	if (way->how == FRAGMENT_TO)
		skb->mark = REWRITTEN_MARK;
	if (!f->at)
		return packet_deliver_rewritten(skb, p, &way->address, bpf_ntohs(way->to_port));
	return fragment_rewrite(skb, p, p->l3 + (p->v6 ? 24 : 16), &p->to, &way->address) ? REASON_MALFORMED : 0;
}

/* Where a datagram to an endpoint goes. No device but lo takes packets to ::1. */
INLINE void way_to_workload(struct __sk_buff *skb, const struct link_config *config, const struct packet *p,
			    const struct endpoint *e, struct fragment_way *way)
{
	struct address to;

	endpoint_workload_address(e, p->v6, &to);
	way->how = FRAGMENT_TO;
	way->to_port = bpf_htons(e->port);
	if (!udp_socket_exists(skb, p, &to, e->port)) {
		drop_count(REASON_WORKLOAD_CLOSED);
		way->how = FRAGMENT_PASSES; /* put together, it is refused by the stack */
		return;
	}
	if (p->v6 && address_is_loopback(&to, 1))
		way->how = FRAGMENT_TO_LO;
	else
		endpoint_rewrite_address(config, e, p->v6, &to);
	way->address = to;
}

/* Judge the first fragment of a datagram to this site's overlay address, as overlay_check() and udp_deliver() judge a
 * whole one. */
INLINE void fragment_judge(struct __sk_buff *skb, const struct link_config *config, const struct packet *p,
			   int preserves_src, struct fragment_way *way)
{
	struct endpoint *e;
	int known;

	way->how = FRAGMENT_PASSES;
	if (port_is_nat(bpf_htons(p->to_port))) {
		way->how = FRAGMENT_FLOW;
		return;
	}
	e = endpoint_lookup(p->to_port, IPPROTO_UDP);
	if (e && e->flags & ENDPOINT_OFF_HOST)
		way->how = FRAGMENT_FLOW;
	else if (e && !(config->flags & LINK_YIELDS))
		way_to_workload(skb, config, p, e, way);
	if (e || (p->to_port == config->load_port && !preserves_src))
		return;
	known = udp_client_lookup(skb, config, p);
	if (known > 0 || (known < 0 && config->flags & LINK_LEFT && port_is_endpoint(config, p->from_port)))
		return;
	way->how = FRAGMENT_REFUSED;
	way->reason = port_is_endpoint(config, p->from_port) ? REASON_NO_SOCKET : REASON_NOT_PUBLISHED;
}

/* Let a fragment go its way. */
INLINE int fragment_follow(struct __sk_buff *skb, const struct fragment_key *key, const struct packet *p,
			   const struct fragment *f, struct fragment_way *way)
{
	int reason;

	if (way->how == FRAGMENT_FLOW)
		return TO_FRAGMENT;
	if (way->how == FRAGMENT_REFUSED)
		return way->reason;
	reason = fragment_admit(key, f, way, FRAGMENT_ROOM_SITE);
	if (reason || way->how == FRAGMENT_PASSES)
		return reason;
	reason = fragment_send_to(skb, p, f, way);
	return !reason && way->how == FRAGMENT_TO_LO ? TO_LO : reason;
}

/* A fragment to this site's overlay address. */
INLINE int fragment_deliver(struct __sk_buff *skb, const struct link_config *config, struct packet *p,
			    int preserves_src)
{
	struct fragment_way fresh = {}, *way;
	struct fragment_key key = {};
	struct fragment f;
	int reason = fragment_load(skb, p->l3, p->v6, &f);

	if (reason == REASON_MALFORMED)
		return reason;
	if (f.protocol != IPPROTO_UDP)
		return REASON_FRAGMENT;
	if (reason)
		return reason;
	p->protocol = f.protocol;
	p->l4 = f.l4;
	fragment_key_fill(p, &f, 0, &key);
	if (f.at) {
		way = fragment_way_lookup(&key, f.at, &reason);
		return way ? fragment_follow(skb, &key, p, &f, way) : reason;
	}
	if (packet_parse_ports(skb, p))
		return REASON_MALFORMED;
	fragment_judge(skb, config, p, preserves_src, &fresh);
	if (fresh.how == FRAGMENT_FLOW)
		return TO_FRAGMENT; /* remembered there */
	reason = fragment_follow(skb, &key, p, &f, &fresh);
	if (reason == REASON_FRAGMENT) { /* without it the others are of no use */
		fresh.how = FRAGMENT_REFUSED;
		fresh.reason = reason;
	}
	fragment_way_store(&key, &f, &fresh);
	return reason;
}

#endif
