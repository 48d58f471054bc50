/* tc egress of every link device: replies of workloads whose packets came in by rewriting (or by UDP) leave with the
 * endpoint as their source, and a UDP socket that sends to an endpoint is remembered as one that may get an answer. */
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

/* Find the endpoint that a local packet is a reply of. A socket bound to every address sends from the overlay address. */
INLINE __u16 *find_source(const struct link_config *config, const struct packet *p)
{
	struct source_key key = {.port = p->from_port, .protocol = p->protocol, .v6 = p->v6};

	if (!is_own(config, &p->from, p->v6))
		key.host = p->from;
	return endpoint_sources_v1.lookup(&key);
}

INLINE void remember_client(struct __sk_buff *skb)
{
	struct udp_client fresh = {.since_ns = bpf_ktime_get_ns()};
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return;
	sk = bpf_sk_fullsock(sk);
	if (sk)
		link_udp_clients_v1.sk_storage_get(sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
}

INLINE int rewrite_source(struct __sk_buff *skb, const struct packet *p, const struct address *from, __u16 port)
{
	return rewrite(skb, p, p->l3 + (p->v6 ? 8 : 12), p->l4, &p->from, from, p->from_port, port);
}

INLINE int leave(struct __sk_buff *skb, const struct link_config *config, struct packet *p)
{
	__u16 *endpoint, port;

	if ((p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP) || p->fragment || parse_ports(skb, p))
		return 0;
	if (p->protocol == IPPROTO_TCP && in_endpoint_range(config, p->from_port))
		return 0; /* a delivered connection: its socket has the endpoint's address */
	endpoint = find_source(config, p);
	if (endpoint) {
		port = *endpoint;
		return rewrite_source(skb, p, p->v6 ? &config->overlay6 : &config->overlay4, port) ? REASON_MALFORMED : 0;
	}
	if (is_loopback(&p->from, p->v6))
		return REASON_NOT_OVERLAY; /* loopback addresses never leave the host */
	if (p->protocol == IPPROTO_UDP && in_endpoint_range(config, p->to_port))
		remember_client(skb);
	return 0;
}

int link_egress(struct __sk_buff *skb)
{
	struct packet p = {};
	__u32 zero = 0, ifindex = skb->ifindex, offset = ETH_LENGTH;
	struct link_config *config = link_config_v2.lookup(&zero);
	struct link_entry *link = find_link(ifindex);
	__u32 reason;

	if (!config || !link || skb->ingress_ifindex) /* forwarded packets leave as they came */
		return TC_ACT_OK;
	if (link->flags & LINK_L3)
		offset = 0;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		reason = parse4(skb, &p, offset);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		reason = parse6(skb, &p, offset);
	else
		return TC_ACT_OK;
	if (reason || (p.v6 && is_link_local(&p.from)))
		return TC_ACT_OK;
	reason = leave(skb, config, &p);
	if (reason)
		count_reason(reason);
	return reason ? TC_ACT_SHOT : TC_ACT_OK;
}
