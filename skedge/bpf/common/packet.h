/* Parsing of packets on link devices into one form for both address families, and the rewriting of their addresses. */
#ifndef SKEDGE_COMMON_PACKET_H
#define SKEDGE_COMMON_PACKET_H

#ifndef INLINE
#define INLINE static __attribute__((always_inline)) inline
#endif

#define ETH_LENGTH 14
#define IP4_LENGTH 20
#define IP6_LENGTH 40
#define TCP_LENGTH 20
#define FRAGMENT_HEADER 8 /* IPv6 */
#define JUMBO_HEADER 8	  /* IPv6 */
#define TCP_SYN 0x02
#define TCP_ACK 0x10
#define TCP_RST 0x04
#define VLAN_NUMBER 0xfff /* the bits of a tag that name the VLAN */
#define NEXT_HOP_BY_HOP 0
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_DESTINATION 60

/* One packet; ``from``/``to`` with the ports are what sockets are looked up by. */
struct packet {
	struct address from;
	struct address to;
	__u32 l3; /* offset of the IP header */
	__u32 l4; /* offset of the transport header */
	__u16 from_port; /* HBO */
	__u16 to_port;
	__u8 v6;
	__u8 protocol;
	__u8 fragment;
	__u8 hops;
	__u8 tcp_flags;
};

INLINE int address_equals(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] && a->word[3] == b->word[3];
}

INLINE int address_is_loopback(const struct address *a, int v6)
{
	if (v6)
		return !a->word[0] && !a->word[1] && !a->word[2] && a->word[3] == bpf_htonl(1);
	return (a->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
}

INLINE int address_is_link_local(const struct address *a)
{
	return (a->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

INLINE int address_is_multicast6(const struct address *a)
{
	return (a->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

/* ::ffff:a.b.c.d, which nobody may send in an IPv6 header: tables have IPv4's addresses in this form. */
INLINE int address_is_of_ipv4(const struct address *a)
{
	return !(a->word[0] | a->word[1]) && a->word[2] == bpf_htonl(0xffff);
}

INLINE int address_in_overlay(const struct link_config *config, const struct address *a, int v6)
{
	if (v6)
		return a->word[0] == config->prefix6.word[0] &&
		       ((a->word[1] ^ config->prefix6.word[1]) & bpf_htonl(0xffff0000)) == 0;
	return (a->word[0] & config->mask4.word[0]) == config->prefix4.word[0];
}

INLINE int address_is_own_site(const struct link_config *config, const struct address *a, int v6)
{
	return v6 ? address_equals(a, &config->overlay6) : a->word[0] == config->overlay4.word[0];
}

INLINE int port_is_endpoint(const struct link_config *config, __u16 port)
{
	return port >= config->endpoint_low && port <= config->endpoint_high;
}

/* Whether the kernel may have given a port to a socket of this host. The controller tells it in whole blocks of 256
 * ports, the longest run of such; other ephemeral ports only cost a look for their socket. */
INLINE int port_is_ephemeral(const struct link_config *config, __u16 port)
{
	__u8 block = (port >> 8) - (config->flags >> LINK_EPHEMERAL_LOW);

	return block < config->flags >> LINK_EPHEMERAL_SPAN;
}

/* The bit of a link in a set of them. Two may share one, as it is made of their names: then what may come by either may
 * come by both. */
INLINE __u32 path_bit(const struct link_entry *link)
{
	return 1u << (link->flags >> LINK_PATH & 31);
}

/* Read bytes of the headers: straight where they lie in the linear part, as they nearly always do. ``size`` is a
 * constant; the mask only tells the verifier that an offset is small. */
INLINE int packet_load(struct __sk_buff *skb, __u32 offset, void *to, __u32 size)
{
	void *packet = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	offset &= 0xff;
	if (packet + offset + size > end)
		return bpf_skb_load_bytes(skb, offset, to, size);
	__builtin_memcpy(to, packet + offset, size);
	return 0;
}

/* Read an IPv4 header at ``offset``. Options are refused: they can name another destination. */
INLINE int packet_parse4(struct __sk_buff *skb, struct packet *p, __u32 offset)
{
	__u64 zero = 0; /* as any number that an address has */
	__u8 ip[IP4_LENGTH];

	if (packet_load(skb, offset, ip, sizeof(ip)) || ip[0] != 0x45)
		return REASON_MALFORMED;
	p->v6 = 0;
	p->l3 = offset;
	p->l4 = offset + IP4_LENGTH;
	p->protocol = ip[9];
	p->fragment = (ip[6] & 0x3f) | ip[7];
	p->hops = ip[8];
	BLUR(skb, zero);
	p->from.word[1] = p->from.word[2] = p->from.word[3] = p->to.word[1] = p->to.word[2] = p->to.word[3] = zero;
	__builtin_memcpy(&p->from.word[0], ip + 12, 4);
	__builtin_memcpy(&p->to.word[0], ip + 16, 4);
	return 0;
}

/* Whether a hop-by-hop header, whose first four bytes are ``head``, is one that the kernel itself has put before TCP: a
 * super-packet of more than 64 KiB (BIG TCP) has its length there, and none in its IPv6 header. It is gone before the
 * packet is on any wire; what comes from one has a length, whatever options are in it. */
INLINE int jumbo_is_of_kernel(__u32 segment, __u16 length, const __u8 *head)
{
	return segment && !length && head[0] == IPPROTO_TCP && !head[1] && head[2] == 0xc2 && head[3] == 4;
}

INLINE void packet_skip_jumbo(struct __sk_buff *skb, struct packet *p, __u16 length)
{
	__u8 head[4];

	if (p->protocol || bpf_skb_load_bytes(skb, p->l4, head, sizeof(head)) ||
	    !jumbo_is_of_kernel(skb->gso_size, length, head))
		return;
	p->protocol = IPPROTO_TCP;
	p->l4 += JUMBO_HEADER;
}

/* Read an IPv6 header at ``offset``. Routing headers can name another destination; hop-by-hop options come only with
 * multicast listener reports, which nobody here needs. */
INLINE int packet_parse6(struct __sk_buff *skb, struct packet *p, __u32 offset)
{
	__u8 ip[IP6_LENGTH];

	if (packet_load(skb, offset, ip, sizeof(ip)) || (ip[0] >> 4) != 6 || ip[6] == NEXT_ROUTING)
		return REASON_MALFORMED;
	p->v6 = 1;
	p->l3 = offset;
	p->l4 = offset + IP6_LENGTH;
	p->protocol = ip[6];
	p->fragment = ip[6] == NEXT_FRAGMENT;
	p->hops = ip[7];
	packet_skip_jumbo(skb, p, ip[4] | ip[5]);
	__builtin_memcpy(&p->from, ip + 8, 16);
	__builtin_memcpy(&p->to, ip + 24, 16);
	return address_is_of_ipv4(&p->from) || address_is_of_ipv4(&p->to) ? REASON_MARTIAN : 0;
}

/* Skip the header of an IPv6 fragment that is the first of its datagram. Returns 0 where there is something behind it. */
INLINE int packet_skip_fragment_header(struct __sk_buff *skb, struct packet *p)
{
	__u8 head[4];

	if (!p->v6 || !p->fragment)
		return 0;
	if (bpf_skb_load_bytes(skb, p->l4, head, sizeof(head)) || head[2] | (head[3] & 0xf8))
		return -1;
	p->protocol = head[0];
	p->l4 += FRAGMENT_HEADER;
	return 0;
}

/* Read the ports of a TCP or UDP packet. */
INLINE int packet_parse_ports(struct __sk_buff *skb, struct packet *p)
{
	__u8 ports[4];

	if (packet_load(skb, p->l4, ports, sizeof(ports)))
		return REASON_MALFORMED;
	p->from_port = (__u16)ports[0] << 8 | ports[1];
	p->to_port = (__u16)ports[2] << 8 | ports[3];
	return 0;
}

/* Read ports and flags of a TCP packet. */
INLINE int packet_parse_tcp(struct __sk_buff *skb, struct packet *p)
{
	if (packet_load(skb, p->l4 + 13, &p->tcp_flags, 1))
		return REASON_MALFORMED;
	return packet_parse_ports(skb, p);
}

/* Change of a checksum when ``from`` becomes ``to``, both on the stack. There is no error for these sizes, and none may
 * be looked for in the sign: Linux 6.1 returns large sums negative. */
INLINE __u32 checksum_diff(struct address *from, struct address *to, __u32 size)
{
	return (__u32)bpf_csum_diff((void *)from, size, (void *)to, size, 0);
}

/* bcc declares it with a sum of 16 bits, which cuts off what Linux 6.1 makes of addresses. */
static long (*csum_update)(struct __sk_buff *skb, __u32 sum) = (void *)BPF_FUNC_csum_update;

INLINE __u32 checksum_sum(__u32 a, __u32 b)
{
	__u64 sum = (__u64)a + b;

	return (__u32)(sum + (sum >> 32));
}

/* Keep right the sum over a whole packet, where a device has made one (CHECKSUM_COMPLETE), when addresses and ports
 * change by these differences. bpf_l4_csum_replace() takes it that the IPv4 header's checksum evens an address out; in
 * IPv6 nothing does. Nor does a datagram without a checksum even out its ports. */
INLINE void packet_sum_update(struct __sk_buff *skb, int v6, int unsummed, __u32 addresses, __u32 ports)
{
	if (v6)
		csum_update(skb, addresses);
	if (unsummed)
		csum_update(skb, ports);
}

/* Whether a datagram has no checksum; ``at`` is where that would be. */
INLINE int datagram_is_unsummed(struct __sk_buff *skb, __u32 at)
{
	__u16 sum = 1;

	return !packet_load(skb, at, &sum, sizeof(sum)) && !sum;
}

/* Replace one address and port of a TCP or UDP packet: ``at``/``port_at`` are their offsets, ``old`` their values.
 * Returns 0, or negative when the kernel refused. */
INLINE int packet_rewrite(struct __sk_buff *skb, const struct packet *p, __u32 at, __u32 port_at,
			  const struct address *old, const struct address *new, __u16 old_port, __u16 new_port)
{
	__u32 sum_at = p->l4 + (p->protocol == IPPROTO_TCP ? 16 : 6);
	__u64 sum_flags = p->protocol == IPPROTO_TCP ? 0 : BPF_F_MARK_MANGLED_0;
	struct address from = *old, to = *new; /* on the stack, where the helpers may read them */
	__u16 from_port = bpf_htons(old_port), to_port = bpf_htons(new_port);
	__u32 size = p->v6 ? 16 : 4;
	__u32 diff = checksum_diff(&from, &to, size);
	int unsummed = sum_flags && datagram_is_unsummed(skb, sum_at);

	if (bpf_l4_csum_replace(skb, sum_at, 0, diff, sum_flags | BPF_F_PSEUDO_HDR))
		return -1;
	if (bpf_l4_csum_replace(skb, sum_at, from_port, to_port, sum_flags | 2))
		return -1;
	if (!p->v6 && bpf_l3_csum_replace(skb, p->l3 + 10, 0, diff, 0))
		return -1;
	packet_sum_update(skb, p->v6, unsummed, diff, checksum_sum((__u16)~from_port, to_port));
	if (bpf_skb_store_bytes(skb, port_at, &to_port, sizeof(to_port), 0))
		return -1;
	return bpf_skb_store_bytes(skb, at, &to, size, 0);
}

/* Whether the packet is of a VLAN, whose own device it is left to. The tag 0 gives but a priority: it is taken off. */
INLINE int vlan_tag_is_foreign(struct __sk_buff *skb)
{
	if (!skb->vlan_present)
		return 0;
	return (skb->vlan_tci & VLAN_NUMBER) || bpf_skb_vlan_pop(skb) || skb->vlan_present;
}

/* Return the link that an interface is, 0 for none. */
INLINE struct link_entry *link_lookup(__u32 ifindex)
{
#pragma unroll
	for (__u32 i = 0; i < LINK_PROBES; i++) {
		__u32 index = (ifindex + i) & (LINK_TABLE_SIZE - 1);
		struct link_entry *link = link_table_v2.lookup(&index);

		if (link && link->ifindex == ifindex)
			return link;
	}
	return 0;
}

INLINE void drop_count(__u32 reason)
{
	__u64 *packets = link_drops_v2.lookup(&reason);

	if (packets)
		*packets += 1;
}

#endif
