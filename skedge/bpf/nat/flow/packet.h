/* Parsing of packets by direct access, into the key that flows are found by. */
#ifndef SKEDGE_NAT_FLOW_PACKET_H
#define SKEDGE_NAT_FLOW_PACKET_H

#include "common/lan_prefixes.h"
#include "placement/any_address.h"

/* Verdict of a parse beside the reasons: options, extension headers, a fragment, or IPv4's addresses in an IPv6 header;
 * see nat/ip_options.c. */
#define ODD 0x400
#define NOT_OURS 0x401
#define IP4_DONT_FRAGMENT 0x40
#define TCP_SMALLEST 20
#define UDP_LENGTH 8
#define DEEPEST 74 /* Ethernet, IPv6 and TCP without options: what must be linear */

struct lan_packet {
    struct nat_key key;
    __u32 l3; /* offset of the IP header */
    __u32 l4;
    __u32 length;   /* of the packet on the wire, from the IP header on: of one segment of a super-packet */
    __u8 v6;
    __u8 hops;
    __u8 class;     /* type of service, traffic class: the host may have routes by it */
    __u8 whole;     /* IPv4: must not be fragmented */
    __u8 tcp_flags; /* 0 for UDP */
    __u8 next;      /* IPv6: the header that follows; a fragment's or a jumbo's is between it and the transport's */
};

INLINE int lan_packet_is_icmp(const struct lan_packet *p)
{
    return p->key.protocol == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* Read the IPv4 header; @ip is checked to be there. */
INLINE int lan_packet_parse4(struct __sk_buff *skb, struct lan_packet *p, const __u8 *ip)
{
    __u64 zero = 0;

    if (ip[0] >> 4 != 4)
        return NOT_OURS;
    BLUR(skb, zero);
    p->v6 = 0;
    p->l4 = p->l3 + IP4_LENGTH;
    p->length = (__u32)ip[2] << 8 | ip[3];
    p->whole = ip[6] & IP4_DONT_FRAGMENT;
    p->hops = ip[8];
    p->class = ip[1];
    p->key.protocol = ip[9];
    p->key.from[0] = p->key.from[1] = p->key.to[0] = p->key.to[1] = zero;
    p->key.from[2] = p->key.to[2] = MAPPED_PREFIX;
    p->key.from[3] = *(__u32 *)(ip + 12);
    p->key.to[3] = *(__u32 *)(ip + 16);
    return ip[0] != 0x45 || ((ip[6] & 0x3f) | ip[7]) ? ODD : 0;
}

/* Whether an address is one of IPv4, as ::ffff:a.b.c.d. In the header of a packet it would have the key of IPv4's. */
INLINE int address_is_mapped(const __u32 *address)
{
    return address[2] == MAPPED_PREFIX && !(address[0] | address[1]);
}

INLINE int lan_packet_is_mapped(const struct lan_packet *p)
{
    return p->v6 && (address_is_mapped(p->key.from) || address_is_mapped(p->key.to));
}

INLINE int lan_packet_parse6(struct lan_packet *p, const __u8 *ip)
{
    if (ip[0] >> 4 != 6)
        return NOT_OURS;
    p->v6 = 1;
    p->l4 = p->l3 + IP6_LENGTH;
    p->length = IP6_LENGTH + ((__u32)ip[4] << 8 | ip[5]);
    p->whole = 1;
    p->hops = ip[7];
    p->class = ip[0] << 4 | ip[1] >> 4;
    p->key.protocol = ip[6];
    p->key.from[0] = *(__u32 *)(ip + 8);
    p->key.from[1] = *(__u32 *)(ip + 12);
    p->key.from[2] = *(__u32 *)(ip + 16);
    p->key.from[3] = *(__u32 *)(ip + 20);
    p->key.to[0] = *(__u32 *)(ip + 24);
    p->key.to[1] = *(__u32 *)(ip + 28);
    p->key.to[2] = *(__u32 *)(ip + 32);
    p->key.to[3] = *(__u32 *)(ip + 36);
    if (lan_packet_is_mapped(p))
        return ODD;
    return ip[6] == NEXT_HOP_BY_HOP || ip[6] == NEXT_ROUTING || ip[6] == NEXT_FRAGMENT || ip[6] == NEXT_DESTINATION ? ODD
                                                                                                                   : 0;
}

/* Make the headers linear, where they may not be. */
INLINE void skb_make_linear(struct __sk_buff *skb)
{
    if ((void *)(long)skb->data + DEEPEST > (void *)(long)skb->data_end)
        bpf_skb_pull_data(skb, skb->len < DEEPEST ? skb->len : DEEPEST);
}

/* Whether an odd packet is the first fragment of a datagram, with nothing else odd. */
INLINE int lan_packet_is_first(struct lan_packet *p, const __u8 *ip, const __u8 *end)
{
    if (!p->v6)
        return ip[0] == 0x45 && (ip[6] & 0x20) && !((ip[6] & 0x1f) | ip[7]) && p->key.protocol == IPPROTO_UDP;
    if (p->key.protocol != NEXT_FRAGMENT || lan_packet_is_mapped(p) || ip + IP6_LENGTH + FRAGMENT_HEADER > end)
        return 0;
    if (ip[IP6_LENGTH] != IPPROTO_UDP || (ip[IP6_LENGTH + 2] | (ip[IP6_LENGTH + 3] & 0xf8)))
        return 0;
    p->key.protocol = IPPROTO_UDP;
    p->l4 += FRAGMENT_HEADER;
    return 1;
}

/* Whether an odd packet is a super-packet of more than 64 KiB, with nothing else odd. */
INLINE int lan_packet_is_jumbo(struct lan_packet *p, const __u8 *ip, const __u8 *end, __u32 segment)
{
    if (!p->v6 || p->key.protocol != NEXT_HOP_BY_HOP || lan_packet_is_mapped(p) || ip + IP6_LENGTH + JUMBO_HEADER > end)
        return 0;
    if (!jumbo_is_of_kernel(segment, *(const __u16 *)(ip + 4), ip + IP6_LENGTH))
        return 0;
    p->key.protocol = IPPROTO_TCP;
    p->l4 += JUMBO_HEADER;
    return 1;
}

/* Make one case to the verifier of all kinds of packets: or it walks what follows once for each. */
INLINE void lan_packet_blur(struct __sk_buff *skb, struct lan_packet *p)
{
    __u64 v6 = p->v6, protocol = p->key.protocol, l4 = p->l4, flags = p->tcp_flags;

    BLUR(skb, v6);
    BLUR(skb, protocol);
    BLUR(skb, l4);
    BLUR(skb, flags);
    p->v6 = v6;
    p->key.protocol = protocol;
    p->l4 = l4;
    p->tcp_flags = flags;
}

/* Parse up to the ports. What the host would refuse for its lengths is no packet. Returns 0, ODD,
 * REASON_MALFORMED, or NOT_OURS for what is neither TCP nor UDP (ICMP: see lan_packet_is_icmp()). ``first``: the first
 * fragment of a datagram is none that is odd. */
INLINE int lan_packet_parse_as(struct __sk_buff *skb, struct lan_packet *p, __u32 link, int first)
{
    __u32 segment = skb->gso_size, header = UDP_LENGTH;
    const __u8 *ip, *l4, *end;
    int odd;

    skb_make_linear(skb);
    ip = (const __u8 *)(long)skb->data + link;
    end = (const __u8 *)(long)skb->data_end;
    p->l3 = link;
    p->tcp_flags = 0;
    p->key.protocol = 0; /* of what is not even IP: nothing may be taken for ICMP */
    p->v6 = 0;
    p->next = IPPROTO_NONE;
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        if (ip + IP4_LENGTH > end)
            return REASON_MALFORMED;
        odd = lan_packet_parse4(skb, p, ip);
        l4 = ip + IP4_LENGTH;
    } else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        if (ip + IP6_LENGTH > end)
            return REASON_MALFORMED;
        odd = lan_packet_parse6(p, ip);
        l4 = ip + IP6_LENGTH;
    } else {
        return NOT_OURS;
    }
    if (odd) {
        if (odd != ODD || !(lan_packet_is_jumbo(p, ip, end, segment) || (first && lan_packet_is_first(p, ip, end))))
            return odd;
        if (p->v6)
            l4 += FRAGMENT_HEADER; /* either is as long */
    }
    /* Read again, so that the verifier takes it for one case and not for two. */
    p->next = *(volatile const __u8 *)(ip + 6);
    if (!segment && p->length > skb->len - link)
        return REASON_MALFORMED;
    if (p->key.protocol == IPPROTO_TCP) {
        if (l4 + TCP_SMALLEST > end)
            return REASON_MALFORMED;
        p->tcp_flags = l4[13];
        header = (l4[12] >> 4) * 4;
        if (header < TCP_SMALLEST)
            return REASON_MALFORMED;
    } else if (p->key.protocol == IPPROTO_UDP) {
        if (l4 + header > end)
            return REASON_MALFORMED;
    } else {
        return NOT_OURS;
    }
    if (segment) /* of which none has the jumbo header */
        p->length = (p->v6 ? IP6_LENGTH : IP4_LENGTH) + header + segment;
    else if (p->length < header + p->l4 - p->l3)
        return REASON_MALFORMED;
    p->key.from_port = *(__u16 *)l4;
    p->key.to_port = *(__u16 *)(l4 + 2);
    lan_packet_blur(skb, p);
    return 0;
}

INLINE int lan_packet_parse(struct __sk_buff *skb, struct lan_packet *p, __u32 link)
{
    return lan_packet_parse_as(skb, p, link, 0);
}

INLINE int lan_packet_parse_first(struct __sk_buff *skb, struct lan_packet *p, __u32 link)
{
    return lan_packet_parse_as(skb, p, link, 1);
}

INLINE int lan_packet_is_fragment6(const struct lan_packet *p)
{
    return p->v6 && p->next == NEXT_FRAGMENT;
}

/* Whether a header more, of 8 bytes, is before the ports. */
INLINE int lan_packet_is_longer6(const struct lan_packet *p)
{
    return p->v6 && (p->next == NEXT_FRAGMENT || p->next == NEXT_HOP_BY_HOP);
}

/* Make a super-packet of more than 64 KiB the headers of its first segment, as they are on the wire. */
INLINE int lan_packet_cut_jumbo(struct __sk_buff *skb, struct lan_packet *p)
{
    __u16 length = bpf_htons(p->length - IP6_LENGTH);
    __u8 next = IPPROTO_TCP;

    if (bpf_skb_change_tail(skb, p->l4 + TCP_SMALLEST, 0) ||
        bpf_skb_adjust_room(skb, -JUMBO_HEADER, BPF_ADJ_ROOM_NET, 0) ||
        bpf_skb_store_bytes(skb, p->l3 + 4, &length, sizeof(length), BPF_F_RECOMPUTE_CSUM) ||
        bpf_skb_store_bytes(skb, p->l3 + 6, &next, sizeof(next), BPF_F_RECOMPUTE_CSUM))
        return -1;
    p->next = next;
    p->l4 -= JUMBO_HEADER;
    return 0;
}

/* Whether an address of a key is in the overlay. */
INLINE int nat_address_in_overlay(const struct link_config *config, const __u32 *word, int v6)
{
    if (v6)
        return word[0] == config->prefix6.word[0] && ((word[1] ^ config->prefix6.word[1]) & bpf_htonl(0xffff0000)) == 0;
    return (word[3] & config->mask4.word[0]) == config->prefix4.word[0];
}

/* Whether an address of a key is that of a site of the network: of IPv4 only the sites' own, as the rest of the range
 * may be the host's provider's or a VPN's. */
INLINE int nat_address_is_site(const struct link_config *config, const __u32 *word, int v6)
{
    struct address site = {};

    if (!nat_address_in_overlay(config, word, v6))
        return 0;
    if (v6 || word[3] == config->overlay4.word[0] || address_is_nat4(word[3]))
        return 1;
    site.word[0] = word[3];
    return link_sites_v1.lookup(&site) != 0;
}

/* Whether any listener has this port. */
INLINE int port_is_listened(const struct nat_key *key)
{
    __u16 port = bpf_ntohs(key->to_port);
    __u32 word = port >> 6 | (key->protocol == IPPROTO_UDP ? PORT_WORDS / 2 : 0);
    __u64 *ports = ports_v1.lookup(&word);

    return ports && *ports >> (port & 63) & 1;
}

INLINE struct listener *listener_lookup(const struct nat_key *key)
{
    struct listener_key at = {.port = key->to_port, .protocol = key->protocol};
    struct listener *listener;

    at.addr[0] = key->to[0];
    at.addr[1] = key->to[1];
    at.addr[2] = key->to[2];
    at.addr[3] = key->to[3];
    listener = listeners_v2.lookup(&at);
    if (!listener && address_is_of_host(&at))
        listener = listener_lookup_any(&at);
    return listener;
}

INLINE int packet_refuse(__u32 reason)
{
    drop_count(reason);
    return TC_ACT_SHOT;
}

#endif
