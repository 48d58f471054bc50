/* Clients of LANs whose source address is preserved: from a prefix that some site announces, to a workload of another
 * one, and back. Reverse path: only prefixes that this site has a route to over a link are in the table. */
#ifndef SKEDGE_LINK_PRESERVED_SRC_H
#define SKEDGE_LINK_PRESERVED_SRC_H

#define FAMILY4 2 /* AF_INET */
#define FAMILY6 10

INLINE void prefix_key_fill(const struct address *a, int v6, struct prefix_key *key)
{
	key->length = WHOLE_ADDRESS;
	if (v6) {
		__builtin_memcpy(key->addr, a, sizeof(key->addr));
		return;
	}
	key->addr[0] = key->addr[1] = 0;
	key->addr[2] = MAPPED_WORD;
	key->addr[3] = a->word[0];
}

/* Whether packets from there may come by this link: it is on some path towards their site. */
INLINE int path_is_possible(__u32 paths, const struct link_entry *link)
{
	return !paths || paths & path_bit(link);
}

/* The same of a sender in the overlay; one that is no known site's nobody has told of. */
INLINE int site_path_is_possible(const struct packet *p, const struct link_entry *link)
{
	struct address from = p->from;
	struct site_address *site = link_sites_v1.lookup(&from);

	return !site || path_is_possible(site->paths, link);
}

/* Whether an address in the overlay's networks is one of this host, beside the overlay's own. */
INLINE int address_is_own_host(const struct link_config *config, const struct packet *p)
{
	struct prefix_key key;
	struct prefix *prefix;

	if (!(config->flags & LINK_HOST_INSIDE))
		return 0;
	prefix_key_fill(&p->to, p->v6, &key);
	prefix = link_prefixes_v1.lookup(&key);
	return prefix && prefix->flags & PREFIX_OWN;
}

/* A sender outside of the overlay: it must be in a prefix of another site, and for a workload of this site in one that
 * this site takes. */
INLINE int client_check_from(const struct link_config *config, const struct packet *p, const struct link_entry *link)
{
	struct prefix_key key;
	struct prefix *prefix;

	prefix_key_fill(&p->from, p->v6, &key);
	prefix = link_prefixes_v1.lookup(&key);
	if (!prefix)
		return REASON_NOT_OVERLAY;
	if (prefix->flags & PREFIX_OWN)
		return REASON_HOST_ADDRESS;
	if (!path_is_possible(prefix->paths, link))
		return REASON_WRONG_PATH;
	return address_is_own_site(config, &p->to, p->v6) && !(prefix->flags & PREFIX_HERE) ? REASON_OVERLAPPING_PREFIX : 0;
}

/* From a site to a client: it passes through, or belongs to a flow of this site's LAN. */
INLINE int client_check_to(const struct packet *p)
{
	struct prefix_key key;
	struct prefix *prefix;

	prefix_key_fill(&p->to, p->v6, &key);
	prefix = link_prefixes_v1.lookup(&key);
	if (prefix && !(prefix->flags & PREFIX_OWN))
		return p->v6 && p->protocol == NEXT_HOP_BY_HOP ? REASON_MALFORMED : 0;
	if (!lan_prefixes_v1.lookup(&key))
		return prefix ? REASON_HOST_ADDRESS : REASON_NOT_OVERLAY;
	if (p->fragment)
		return TO_FRAGMENT;
	if (p->protocol == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return TO_NAT_ERROR;
	return p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP ? TO_NAT : REASON_NO_SOCKET;
}

/* The size of the packet on the wire, from the IP header on: of one segment where it is many. */
INLINE __u32 packet_size(struct __sk_buff *skb, const struct packet *p)
{
	__u32 segment = skb->gso_size, header = 8;
	__u8 words = 0;

	if (!segment)
		return skb->len - p->l3;
	if (p->protocol == IPPROTO_TCP && !packet_load(skb, p->l4 + 12, &words, 1))
		header = (words >> 4) * 4;
	return (p->v6 ? IP6_LENGTH : IP4_LENGTH) + header + segment; /* without a jumbo header, which only the whole has */
}

/* Whether routers may cut the packet up: then the kernel does. */
INLINE int packet_may_be_cut4(struct __sk_buff *skb, const struct packet *p)
{
	__u8 flags = 0;

	return !p->v6 && (packet_load(skb, p->l3 + 6, &flags, 1) || !(flags & 0x40));
}

/* Whether a packet on its way through goes on: it has passed few hosts, and fits. The kernel would tell its sender by the
 * host's own routes, where the LAN of another site is not (see dataplane/routing/rules.py): so it is told from here, over
 * the link that the packet came by. */
INLINE int packet_check_transit(struct __sk_buff *skb, const struct link_config *config, struct packet *p)
{
	__u32 zero = 0;
	struct nat_config *nat = nat_config_v1.lookup(&zero);
	struct bpf_fib_lookup fib = {};

	if (p->hops <= 1) {
		CB_SET(skb, CB_MTU, MTU_NONE);
		return !p->fragment && (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP) ? TO_TOO_BIG : REASON_HOP_LIMIT;
	}
	if (packet_may_be_cut4(skb, p) || packet_skip_fragment_header(skb, p))
		return 0;
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return 0;
	fib.family = p->v6 ? FAMILY6 : FAMILY4;
	fib.ifindex = nat && nat->device ? nat->device : skb->ifindex; /* one whose forwarding flag is set */
	fib.tot_len = packet_size(skb, p);
	if (p->v6) {
		__builtin_memcpy(fib.ipv6_src, &p->from, 16);
		__builtin_memcpy(fib.ipv6_dst, &p->to, 16);
	} else {
		fib.ipv4_src = p->from.word[0];
		fib.ipv4_dst = p->to.word[0];
	}
	if (bpf_fib_lookup(skb, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return 0;
	CB_SET(skb, CB_MTU, fib.mtu_result);
	return TO_TOO_BIG;
}

#endif
