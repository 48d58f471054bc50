/* tc egress of every link device: replies of workloads whose packets came in by rewriting (or by UDP) leave with the
 * endpoint as their source, and a UDP socket that sends to an endpoint is stored as one that may get an answer. */
#include <uapi/linux/bpf.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/pkt_cls.h>
#include <bcc/helpers.h>

#include "common/reasons.h"
#include "link/verdicts.h"
#include "common/link_maps.h"
#include "common/packet.h"
#include "link/fragments_rewrite.h"

/* Return the endpoint that a packet of this host replies for. A socket bound to every address sends from the overlay
 * address. */
INLINE __u16 *endpoint_source_lookup(const struct link_config *config, const struct packet *p)
{
	struct source_key key = {.port = p->from_port, .protocol = p->protocol, .v6 = p->v6};

	if (!address_is_own_site(config, &p->from, p->v6))
		key.host = p->from;
	return endpoint_sources_v1.lookup(&key);
}

INLINE void udp_client_store(struct __sk_buff *skb)
{
	struct udp_client fresh = {.since_ns = bpf_ktime_get_ns()};
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return;
	sk = bpf_sk_fullsock(sk);
	if (sk)
		link_udp_clients_v1.sk_storage_get(sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
}

INLINE int packet_rewrite_source(struct __sk_buff *skb, const struct packet *p, const struct address *from, __u16 port)
{
	return packet_rewrite(skb, p, p->l3 + (p->v6 ? 8 : 12), p->l4, &p->from, from, p->from_port, port);
}

/* A datagram of this host that its kernel has cut up: the first fragment says who it is from. */
INLINE int fragment_leave(struct __sk_buff *skb, const struct link_config *config, struct packet *p)
{
	struct fragment_way fresh = {.how = FRAGMENT_FROM}, *way;
	struct fragment_key key = {};
	__u16 *endpoint = 0;
	struct fragment f;
	int reason;

	if (fragment_load(skb, p->l3, p->v6, &f) || f.protocol != IPPROTO_UDP)
		return address_is_loopback(&p->from, p->v6) ? REASON_NOT_OVERLAY : 0;
	p->protocol = f.protocol;
	p->l4 = f.l4;
	fragment_key_fill(p, &f, 1, &key);
	if (f.at) {
		way = fragment_way_lookup(&key, f.at, &reason);
		if (!way)
			return address_is_loopback(&p->from, p->v6) ? reason : 0;
		return fragment_rewrite(skb, p, p->l3 + (p->v6 ? 8 : 12), &p->from, &way->address) ? REASON_MALFORMED : 0;
	}
	if (packet_parse_ports(skb, p))
		return REASON_MALFORMED;
	endpoint = endpoint_source_lookup(config, p);
	if (endpoint) {
		fresh.address = p->v6 ? config->overlay6 : config->overlay4;
		fragment_way_store(&key, &f, &fresh);
		return packet_rewrite_source(skb, p, &fresh.address, *endpoint) ? REASON_MALFORMED : 0;
	}
	fragment_ways_v1.delete(&key); /* of a datagram before, with the same identification */
	if (address_is_loopback(&p->from, p->v6))
		return REASON_NOT_OVERLAY;
	if (port_is_endpoint(config, p->to_port))
		udp_client_store(skb);
	return 0;
}

INLINE int packet_leave(struct __sk_buff *skb, const struct link_config *config, struct packet *p)
{
	__u16 *endpoint, port;

	if (p->fragment)
		return fragment_leave(skb, config, p);
	if ((p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP) || packet_parse_ports(skb, p))
		return 0;
	if (p->protocol == IPPROTO_TCP && port_is_endpoint(config, p->from_port))
		return 0; /* a delivered connection: its socket has the endpoint's address */
	endpoint = endpoint_source_lookup(config, p);
	if (endpoint) {
		port = *endpoint;
		return packet_rewrite_source(skb, p, p->v6 ? &config->overlay6 : &config->overlay4, port) ? REASON_MALFORMED : 0;
	}
	if (address_is_loopback(&p->from, p->v6))
		return REASON_NOT_OVERLAY; /* loopback addresses never leave the host */
	if (p->protocol == IPPROTO_UDP && port_is_endpoint(config, p->to_port))
		udp_client_store(skb);
	return 0;
}

int link_egress(struct __sk_buff *skb)
{
	struct packet p = {};
	__u32 zero = 0, ifindex = skb->ifindex, offset = ETH_LENGTH;
	struct link_config *config = link_config_v2.lookup(&zero);
	struct link_entry *link = link_lookup(ifindex);
	__u32 reason;

	if (!config || !link || skb->ingress_ifindex) /* forwarded packets leave as they came */
		return TC_ACT_OK;
	if (link->flags & LINK_L3)
		offset = 0;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		reason = packet_parse4(skb, &p, offset);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		reason = packet_parse6(skb, &p, offset);
	else
		return TC_ACT_OK;
	if (reason || (p.v6 && address_is_link_local(&p.from)))
		return TC_ACT_OK;
	reason = packet_leave(skb, config, &p);
	if (reason)
		drop_count(reason);
	return reason ? TC_ACT_SHOT : TC_ACT_OK;
}
