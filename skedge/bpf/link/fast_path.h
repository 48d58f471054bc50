/* The fast path of link_ingress: transit, and packets of connections that exist, which is nearly everything. They pass
 * on what their headers say, without a helper call: the kernel looks the socket up anyway, and answers a packet that has
 * none by a reset. Only a port marked MARK_LOOKUP needs more (see link/deliver_tcp.h): workloads that are reached by
 * rewriting, and listeners that may have answered with a SYN cookie. Packets of flows go on to the flow table. */
#ifndef SKEDGE_LINK_FAST_PATH_H
#define SKEDGE_LINK_FAST_PATH_H

/* Fields at fixed places of the headers, all in the linear part of the packet. */
#define U16(at) (*(__u16 *)(at))
#define U32(at) (*(__u32 *)(at))

INLINE int tcp_is_fresh(__u8 flags)
{
	return (flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

INLINE int port_is_nat(__u16 port)
{
	__u32 zero = 0;
	struct nat_config *nat = nat_config_v1.lookup(&zero);

	return nat && nat_config_has_port(nat, port);
}

/* Whether a TCP packet to this site may pass: not a new connection, and to a plain endpoint or from an endpoint to an
 * ephemeral port. TO_NAT: it is of a flow. */
INLINE int tcp_is_established(const struct link_config *config, const __u8 *tcp)
{
	__u16 from_port = bpf_ntohs(U16(tcp)), to_port = bpf_ntohs(U16(tcp + 2));
	__u32 mark;

	if (tcp_is_fresh(tcp[13]))
		return 0;
	mark = endpoint_mark_lookup(to_port);
	if (mark == MARK_PUBLISHED)
		return 1;
	if (mark & MARK_NAT)
		return TO_NAT;
	if (mark || !port_is_endpoint(config, from_port))
		return 0;
	if (port_is_ephemeral(config, to_port))
		return 1;
	return port_is_nat(U16(tcp + 2)) ? TO_NAT : 0;
}

INLINE int packet_may_pass4(const struct link_config *config, const __u8 *ip, const __u8 *end)
{
	__u32 from, to;

	if (ip + IP4_LENGTH > end || ip[0] != 0x45)
		return 0;
	from = U32(ip + 12);
	to = U32(ip + 16);
	if (((from ^ config->prefix4.word[0]) | (to ^ config->prefix4.word[0])) & config->mask4.word[0])
		return 0;
	if (from == config->overlay4.word[0])
		return 0;
	if (to != config->overlay4.word[0] && !address_is_nat4(to))
		return !(config->flags & LINK_HOST_INSIDE); /* transit */
	if (ip[9] != IPPROTO_TCP || (U16(ip + 6) & bpf_htons(0x3fff)) || ip + IP4_LENGTH + TCP_LENGTH > end)
		return 0;
	return to == config->overlay4.word[0] ? tcp_is_established(config, ip + IP4_LENGTH) : TO_NAT;
}

INLINE int address_is_own_site6(const struct link_config *config, const __u8 *at)
{
	const __u32 *own = config->overlay6.word;

	return !((U32(at) ^ own[0]) | (U32(at + 4) ^ own[1]) | (U32(at + 8) ^ own[2]) | (U32(at + 12) ^ own[3]));
}

INLINE int address_in_prefix6(const struct link_config *config, const __u8 *at)
{
	const __u32 *prefix = config->prefix6.word;

	return !((U32(at) ^ prefix[0]) | ((U32(at + 4) ^ prefix[1]) & bpf_htonl(0xffff0000)));
}

INLINE int packet_may_pass6(const struct link_config *config, const __u8 *ip, const __u8 *end)
{
	if (ip + IP6_LENGTH + TCP_LENGTH > end || (ip[0] >> 4) != 6)
		return 0;
	if (ip[6] != IPPROTO_TCP || !address_in_prefix6(config, ip + 8) || !address_in_prefix6(config, ip + 24))
		return 0;
	if (address_is_own_site6(config, ip + 8))
		return 0;
	if (address_is_own_site6(config, ip + 24))
		return tcp_is_established(config, ip + IP6_LENGTH);
	if (address_is_nat6((const __u32 *)(ip + 24)))
		return TO_NAT;
	return !(config->flags & LINK_HOST_INSIDE); /* transit */
}

/* Return 1 when the packet may pass, TO_NAT when it is of a flow; 0 means that the checks must tell. */
INLINE int packet_may_pass(struct __sk_buff *skb, const struct link_config *config, const struct link_entry *link)
{
	const __u8 *packet = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (!(link->flags & LINK_L3)) {
		if (packet + ETH_LENGTH > end)
			return 0;
		if ((U32(packet + 6) ^ U32(link->peer_mac)) | (U16(packet + 10) ^ U16(link->peer_mac + 4)))
			return 0;
		packet += ETH_LENGTH;
	}
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return packet_may_pass4(config, packet, end);
	return skb->protocol == bpf_htons(ETH_P_IPV6) ? packet_may_pass6(config, packet, end) : 0;
}

#endif
