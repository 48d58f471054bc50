/* tc ingress of every link device: stateless default deny, and delivery to workloads.
 *
 * In come: new connections to published endpoints, packets of sockets that exist, ICMP errors about them, control
 * and probe traffic of the neighbour itself, transit between sites. The rest is dropped and counted by reason. */
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
#include "common/send_to_lo.h"
#include "common/tail_calls.h"
#include "common/lan_prefixes.h"
#include "link/sk_lookup.h"
#include "link/deliver_tcp.h"
#include "link/deliver_udp.h"
#include "link/icmp.h"
#include "link/fast_path.h"
#include "link/fragments.h"
#include "link/preserved_src.h"

#define ICMP6_ECHO_REQUEST 128
#define ICMP6_ECHO_REPLY 129
#define ICMP6_LISTENER_QUERY 130
#define ICMP6_ROUTER_SOLICITATION 133
#define ICMP6_NEIGHBOUR_SOLICITATION 135
#define ICMP6_NEIGHBOUR_ADVERTISEMENT 136

/* Frames of another sender are not the link's. On a shared segment other hosts' broadcasts arrive too: no news. */
INLINE int sender_check(struct __sk_buff *skb, const struct link_entry *link)
{
	__u8 mac[6];

	if (bpf_skb_load_bytes(skb, 6, mac, sizeof(mac)))
		return REASON_MALFORMED;
	for (int i = 0; i < 6; i++)
		if (mac[i] != link->peer_mac[i])
			return skb->pkt_type == PACKET_HOST ? REASON_WRONG_TUNNEL_PEER : SILENT;
	return 0;
}

/* A TCP packet from the neighbour's control port that opens nothing: to a socket of ours, or where one may have been. */
INLINE int dialling_check(struct __sk_buff *skb, const struct link_config *config, const struct packet *p)
{
	int state;

	if (port_is_ephemeral(config, p->to_port))
		return 0;
	state = tcp_socket_state(skb, p, &p->to, p->to_port);
	return state && state != STATE_LISTEN ? 0 : REASON_NO_SOCKET;
}

/* Link-local traffic: probes, neighbour discovery, the control stream; from the neighbour, to us. */
INLINE int neighbour_check(struct __sk_buff *skb, const struct link_config *config, const struct link_entry *link,
			   struct packet *p)
{
	__u8 type = 0;

	if (!address_equals(&p->from, &link->peer))
		return REASON_NOT_NEIGHBOUR;
	if (p->protocol == NEXT_HOP_BY_HOP && address_is_multicast6(&p->to))
		return SILENT; /* a multicast listener report, sent by every kernel when a device comes up */
	if (p->protocol == IPPROTO_ICMPV6) {
		if (bpf_skb_load_bytes(skb, p->l4, &type, 1))
			return REASON_MALFORMED;
		if (type == ICMP6_NEIGHBOUR_SOLICITATION || type == ICMP6_NEIGHBOUR_ADVERTISEMENT)
			return p->hops == 255 ? 0 : REASON_NOT_NEIGHBOUR;
		if (type == ICMP6_ROUTER_SOLICITATION)
			return SILENT;
		if (!address_equals(&p->to, &link->own))
			return REASON_NOT_NEIGHBOUR;
		if (type >= 1 && type <= 4)
			return neighbour_error_check(skb, link, p);
		return type == ICMP6_ECHO_REQUEST || type == ICMP6_ECHO_REPLY ? 0 : REASON_NOT_NEIGHBOUR;
	}
	if (p->protocol != IPPROTO_TCP || !address_equals(&p->to, &link->own))
		return REASON_NOT_NEIGHBOUR;
	if (packet_parse_tcp(skb, p))
		return REASON_MALFORMED;
	if (p->to_port == config->control_port)
		return 0;
	/* Answers to our own dialling; a SYN from that port would reach any port of this host. */
	if (p->from_port == config->control_port && (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return dialling_check(skb, config, p);
	return REASON_NOT_NEIGHBOUR;
}

/* To this site's address for NAT, which no socket has: an answer in a flow, or an error about one. */
INLINE int nat_address_check(const struct packet *p)
{
	if (p->fragment)
		return TO_FRAGMENT;
	if (p->protocol == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return TO_NAT_ERROR;
	return p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP ? TO_NAT : REASON_NOT_PUBLISHED;
}

INLINE int address_is_nat(const struct address *a, int v6)
{
	return v6 ? address_is_nat6(a->word) : address_is_nat4(a->word[0]);
}

/* Traffic between overlay addresses, or with a client of some LAN at one end. */
INLINE int overlay_check(struct __sk_buff *skb, const struct link_config *config, const struct link_entry *link,
			 struct packet *p)
{
	int preserves_src = !address_in_overlay(config, &p->from, p->v6), reason;

	if (address_is_own_site(config, &p->from, p->v6) || address_is_nat(&p->from, p->v6))
		return REASON_NOT_OVERLAY;
	if (!address_in_overlay(config, &p->to, p->v6))
		return preserves_src ? REASON_NOT_OVERLAY : client_check_to(p);
	if (preserves_src) {
		reason = client_check_from(config, p, link);
		if (reason)
			return reason;
	}
	if (p->v6 && p->protocol == NEXT_HOP_BY_HOP)
		return REASON_MALFORMED;
	if (address_is_nat(&p->to, p->v6))
		return nat_address_check(p);
	if (!address_is_own_site(config, &p->to, p->v6)) {
		if (address_is_own_host(config, p))
			return REASON_HOST_ADDRESS;
		return preserves_src ? packet_check_transit(skb, config, p) : 0; /* transit */
	}
	if (p->fragment)
		return fragment_deliver(skb, config, p, preserves_src);
	if (p->protocol == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return preserves_src || site_path_is_possible(p, link) ? TO_ERROR : REASON_WRONG_PATH;
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return REASON_NOT_PUBLISHED;
	if (p->protocol == IPPROTO_TCP ? packet_parse_tcp(skb, p) : packet_parse_ports(skb, p))
		return REASON_MALFORMED;
	if (!preserves_src && (p->protocol == IPPROTO_UDP || tcp_is_fresh(p->tcp_flags)) &&
	    !site_path_is_possible(p, link))
		return REASON_WRONG_PATH;
	if (preserves_src && p->to_port == config->load_port)
		return REASON_NOT_PUBLISHED; /* that is for sites */
	if (port_is_nat(bpf_htons(p->to_port)))
		return TO_NAT;
	return p->protocol == IPPROTO_TCP ? tcp_deliver(skb, config, p) : udp_deliver(skb, config, p);
}

/* Make one case to the verifier of all kinds of packets: or it walks what follows once for each. */
INLINE void packet_blur(struct __sk_buff *skb, struct packet *p)
{
	__u64 v6 = p->v6, l3 = p->l3, l4 = p->l4, protocol = p->protocol, fragment = p->fragment;

	BLUR(skb, v6);
	BLUR(skb, l3);
	BLUR(skb, l4);
	BLUR(skb, protocol);
	BLUR(skb, fragment);
	p->v6 = v6;
	p->l3 = l3;
	p->l4 = l4;
	p->protocol = protocol;
	p->fragment = fragment;
}

INLINE int link_check(struct __sk_buff *skb)
{
	struct packet p = {};
	__u32 zero = 0, ifindex = skb->ifindex, offset = 0;
	struct link_config *config = link_config_v2.lookup(&zero);
	struct link_entry *link = link_lookup(ifindex);
	int reason;

	if (!config || !link)
		return REASON_NOT_NEIGHBOUR; /* nothing comes in before the controller said who is there */
	reason = packet_may_pass(skb, config, link);
	if (reason)
		return reason == TO_NAT ? TO_NAT : 0;
	if (vlan_tag_is_foreign(skb))
		return skb->pkt_type == PACKET_HOST ? REASON_NOT_OVERLAY : SILENT;
	if (!(link->flags & LINK_L3)) {
		reason = sender_check(skb, link);
		if (reason)
			return reason;
		offset = ETH_LENGTH;
	}
	if (skb->protocol == bpf_htons(ETH_P_IP))
		reason = packet_parse4(skb, &p, offset);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		reason = packet_parse6(skb, &p, offset);
	else
		return REASON_NOT_OVERLAY;
	if (reason)
		return reason;
	packet_blur(skb, &p);
	if (skb->mark == REWRITTEN_MARK) /* only what is rewritten here may have it */
		skb->mark = 0;
	if (p.v6 && (address_is_link_local(&p.from) || address_is_link_local(&p.to) || address_is_multicast6(&p.to)))
		reason = neighbour_check(skb, config, link, &p);
	else
		reason = overlay_check(skb, config, link, &p);
	return reason == TO_ERROR ? icmp_check(skb, config, &p) : reason;
}

/* Whether another engine's check decides on what this one refuses. */
INLINE int link_yields(void)
{
	__u32 zero = 0;
	struct link_config *config = link_config_v2.lookup(&zero);

	return config && config->flags & LINK_YIELDS;
}

int link_ingress(struct __sk_buff *skb)
{
	int reason = link_check(skb);

	if (reason == 0)
		return TC_ACT_OK;
	/* What the fast path lets pass with a tag on, the stack drops; flows by-pass it. */
	if (reason == TO_NAT && vlan_tag_is_foreign(skb))
		reason = REASON_NOT_OVERLAY;
	if (reason >= TO_NAT) {
		struct link_entry *link;
		__u32 ifindex = skb->ifindex;

		link = link_lookup(ifindex);
		CB_SET(skb, CB_LINK, link && link->flags & LINK_L3 ? 0 : ETH_LENGTH);
		CB_SET(skb, CB_DENY, 1);
		if (reason == TO_LO) {
			skb->mark = 0;
			return skb_send_to_lo(skb, CB_GET(skb, CB_LINK), LOOPBACK_INDEX);
		}
		if (reason == TO_NAT)
			nat_programs_v1.call(skb, NAT_OVERLAY);
		else if (reason == TO_NAT_ERROR)
			nat_programs_v1.call(skb, NAT_ERROR);
		else if (reason == TO_FRAGMENT)
			nat_programs_v1.call(skb, NAT_ODD);
		else
			nat_programs_v1.call(skb, NAT_TOO_BIG);
		reason = REASON_NO_SOCKET; /* NAT is not loaded */
	}
	if (link_yields())
		return TC_ACT_OK;
	if (reason != SILENT)
		drop_count(reason & REASON_MASK);
	return reason & REFUSED ? TC_ACT_OK : TC_ACT_SHOT;
}
