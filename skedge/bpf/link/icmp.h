/* ICMP errors about packets of this site's sockets and workloads. */
#ifndef SKEDGE_LINK_ICMP_H
#define SKEDGE_LINK_ICMP_H

/* Give the packet that an ICMP error quotes the workload's own address and port as its source: under the endpoint's
 * the kernel would find no socket. The quoted IPv4 header's checksum takes up the change of the address, so the ICMP
 * checksum sees only the port; over IPv6 it sees both. */
INLINE int icmp_translate_quoted(struct __sk_buff *skb, const struct packet *p, const struct packet *quoted,
				 const struct address *workload, __u16 workload_port)
{
	struct address from = quoted->from, to = *workload;
	__u16 old_port = bpf_htons(quoted->from_port), new_port = bpf_htons(workload_port);
	__u32 size = p->v6 ? 16 : 4, sum_at = p->l4 + 2;
	__u32 diff = checksum_diff(&from, &to, size);

	if (bpf_l4_csum_replace(skb, sum_at, old_port, new_port, 2))
		return REASON_MALFORMED;
	if (p->v6 ? bpf_l4_csum_replace(skb, sum_at, 0, diff, 0) : bpf_l3_csum_replace(skb, quoted->l3 + 10, 0, diff, 0))
		return REASON_MALFORMED;
	if (bpf_skb_store_bytes(skb, quoted->l4, &new_port, sizeof(new_port), 0))
		return REASON_MALFORMED;
	return bpf_skb_store_bytes(skb, quoted->l3 + (p->v6 ? 8 : 12), &to, size, 0) ? REASON_MALFORMED : 0;
}

/* ``quoted`` is the packet that an ICMP error is about: it must be from a socket of ours, or of a workload that is
 * reached by rewriting (or by UDP). */
INLINE int icmp_check_quoted(struct __sk_buff *skb, const struct link_config *config, const struct packet *p,
			     const struct packet *quoted)
{
	struct packet back = {.v6 = quoted->v6, .from = quoted->to, .to = quoted->from};
	struct endpoint *e;
	struct address to;
	int state;

	back.from_port = quoted->to_port;
	back.to_port = quoted->from_port;
	if (quoted->protocol == IPPROTO_TCP) {
		state = tcp_socket_state(skb, &back, &back.to, back.to_port);
		if (state && state != STATE_LISTEN)
			return 0;
	} else if (udp_client_lookup(skb, config, &back) > 0) {
		return 0;
	}
	e = endpoint_lookup(quoted->from_port, quoted->protocol);
	if (!e || e->flags & ENDPOINT_OFF_HOST)
		return REASON_NO_SOCKET;
	endpoint_workload_address(e, p->v6, &to);
	if (quoted->protocol == IPPROTO_TCP) {
		endpoint_rewrite_address(config, e, p->v6, &to);
		state = tcp_socket_state(skb, &back, &to, e->port);
		if (!state || state == STATE_LISTEN)
			return REASON_NO_SOCKET;
	} else if (!to.word[0] && !to.word[3]) {
		to = quoted->from; /* bound to every address */
	}
	return icmp_translate_quoted(skb, p, quoted, &to, e->port);
}

/* Whether an ICMPv6 error of the neighbour is about a packet that this site sent it over this link: of the control
 * stream or a probe. An error about anything else would end or slow down the host's own conversations. */
INLINE int neighbour_error_check(struct __sk_buff *skb, const struct link_entry *link, const struct packet *p)
{
	struct packet quoted = {};

	if (packet_parse6(skb, &quoted, p->l4 + 8))
		return REASON_MALFORMED;
	if (address_equals(&quoted.from, &link->own) && address_equals(&quoted.to, &link->peer))
		return 0;
	return address_is_link_local(&quoted.from) ? REASON_NO_SOCKET : TO_ERROR;
}

/* Whether a site on the way, and not the one that the quoted packet was sent to, says that there is no way, or that it
 * went in a circle. While paths change that is so for a moment, and would end a connect; for how long there is no path,
 * this site's own map tells. */
INLINE int icmp_is_of_transit(const struct packet *p, const struct packet *quoted, __u8 type, __u8 code)
{
	if (quoted->protocol != IPPROTO_TCP || address_equals(&p->from, &quoted->to))
		return 0;
	if (p->v6)
		return (type == 1 && (code == 0 || code == 3)) || type == 3;
	return (type == 3 && code <= 1) || type == 11;
}

/* ICMP errors pass when the packet that they quote is from a socket of ours or of a flow. Anything else is not for the
 * overlay. */
INLINE int icmp_check(struct __sk_buff *skb, const struct link_config *config, struct packet *p)
{
	struct packet quoted = {};
	__u8 said[2] = {}, type;
	int error;

	if (bpf_skb_load_bytes(skb, p->l4, said, sizeof(said)))
		return REASON_MALFORMED;
	type = said[0];
	error = p->v6 ? type >= 1 && type <= 4 : type == 3 || type == 11 || type == 12;
	if (!error)
		return REASON_NOT_PUBLISHED;
	if (p->v6 ? packet_parse6(skb, &quoted, p->l4 + 8) : packet_parse4(skb, &quoted, p->l4 + 8))
		return REASON_MALFORMED;
	if (packet_skip_fragment_header(skb, &quoted))
		return REASON_NO_SOCKET;
	if ((quoted.protocol != IPPROTO_TCP && quoted.protocol != IPPROTO_UDP) ||
	    !address_is_own_site(config, &quoted.from, p->v6))
		return REASON_NO_SOCKET;
	if (packet_parse_ports(skb, &quoted))
		return REASON_MALFORMED;
	error = icmp_check_quoted(skb, config, p, &quoted);
	if (error == REASON_NO_SOCKET)
		return TO_NAT_ERROR;
	return !error && icmp_is_of_transit(p, &quoted, type, said[1]) ? REASON_TRANSIT_ERROR : error;
}

#endif
