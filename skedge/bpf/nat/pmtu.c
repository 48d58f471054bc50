/* A packet of a flow that is too big for the way ahead: cut up where it may be; else dropped, and its sender told the size
 * that fits. And one that has passed too many hosts: its sender is told, too, so a route can be traced. The packet itself
 * becomes the answer: cut down to its headers, with an ICMP header in front. */
#include <uapi/linux/bpf.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/pkt_cls.h>
#include <bcc/helpers.h>
#include "common/limits.h"
#include "common/reasons.h"
#include "placement/types.h"
#include "placement/maps.h"
#include "placement/store.h"
#include "common/link_maps.h"
#include "common/packet.h"
#include "nat/flow/types.h"
#include "nat/flow/packet.h"
#include "nat/flow/conntrack.h"
#include "nat/flow/tcp_track.h"
#include "nat/flow/forward.h"
#include "nat/flow/checksum.h"
#include "nat/flow/port_alloc.h"
#include "nat/admission/ask.h"
#include "nat/admission/limits.h"

#define ICMP_LENGTH 8
#define ICMP_UNREACHABLE 3
#define ICMP_MUST_NOT_BE_CUT 4
#define ICMP_TIME_EXCEEDED 11
#define ICMP6_TOO_BIG 2
#define ICMP6_TIME_EXCEEDED 3
#define HOPS 64
#define TCP_HEADER 20
#define UDP_HEADER 8
#define EXPIRED_EACH 10000000ull /* ns: what one sender is told a second of packets that go no further; sizes without limit */

/* What the answer says, and who says it. */
struct verdict {
    __u32 mtu; /* MTU_NONE: the packet has passed too many hosts */
    int partial; /* the transport checksum is left to the device */
    __u32 from[4];
};

/* Everything of the answer but its link-layer header. */
struct answer4 {
    __u8 ip[IP4_LENGTH];
    __u8 icmp[ICMP_LENGTH];
    __u8 quote[IP4_LENGTH + TCP_HEADER];
};

struct answer6 {
    __u8 ip[IP6_LENGTH];
    __u8 icmp[ICMP_LENGTH];
    __u8 quote[IP6_LENGTH + TCP_HEADER];
    __u32 pseudo[2]; /* length and protocol, as the checksum wants them */
};

/* The sum of the quote: all of it, or only its IP header, where the rest will sum up to nothing (see lan_too_big). */
#define SUM_OF(bytes, size) ((__u32)bpf_csum_diff(0, 0, (void *)(bytes), size, 0))

INLINE int icmp_answer4(struct __sk_buff *skb, const struct lan_packet *p, const struct verdict *v)
{
    int tcp = p->key.protocol == IPPROTO_TCP;
    __u32 quoted = IP4_LENGTH + (tcp ? TCP_HEADER : UDP_HEADER);
    struct answer4 a = {};
    __u64 sum;

    if (tcp ? bpf_skb_load_bytes(skb, p->l3, a.quote, IP4_LENGTH + TCP_HEADER)
            : bpf_skb_load_bytes(skb, p->l3, a.quote, IP4_LENGTH + UDP_HEADER))
        return -1;
    a.ip[0] = 0x45;
    a.ip[3] = IP4_LENGTH + ICMP_LENGTH + quoted;
    a.ip[8] = HOPS;
    a.ip[9] = IPPROTO_ICMP;
    *(__u32 *)(a.ip + 12) = v->from[3];
    *(__u32 *)(a.ip + 16) = p->key.from[3];
    *(__u16 *)(a.ip + 10) = checksum_fold(SUM_OF(a.ip, IP4_LENGTH));
    a.icmp[0] = v->mtu ? ICMP_UNREACHABLE : ICMP_TIME_EXCEEDED;
    a.icmp[1] = v->mtu ? ICMP_MUST_NOT_BE_CUT : 0;
    *(__u16 *)(a.icmp + 6) = bpf_htons(v->mtu);
    sum = SUM_OF(a.icmp, ICMP_LENGTH);
    sum += v->partial ? SUM_OF(a.quote, IP4_LENGTH) : SUM_OF(a.quote, IP4_LENGTH + TCP_HEADER);
    *(__u16 *)(a.icmp + 2) = checksum_fold(sum);
    if (bpf_skb_change_tail(skb, p->l3 + quoted, 0) ||
        bpf_skb_adjust_room(skb, IP4_LENGTH + ICMP_LENGTH, BPF_ADJ_ROOM_MAC, 0))
        return -1;
    return bpf_skb_store_bytes(skb, p->l3, &a, IP4_LENGTH + ICMP_LENGTH, BPF_F_RECOMPUTE_CSUM);
}

INLINE int icmp_answer6(struct __sk_buff *skb, const struct lan_packet *p, const struct verdict *v)
{
    int tcp = p->key.protocol == IPPROTO_TCP;
    __u32 quoted = IP6_LENGTH + (tcp ? TCP_HEADER : lan_packet_is_fragment6(p) ? FRAGMENT_HEADER + UDP_HEADER : UDP_HEADER);
    struct answer6 a = {};
    __u64 sum;

    if (tcp                          ? bpf_skb_load_bytes(skb, p->l3, a.quote, IP6_LENGTH + TCP_HEADER)
        : lan_packet_is_fragment6(p) ? bpf_skb_load_bytes(skb, p->l3, a.quote, IP6_LENGTH + FRAGMENT_HEADER + UDP_HEADER)
            : bpf_skb_load_bytes(skb, p->l3, a.quote, IP6_LENGTH + UDP_HEADER))
        return -1;
    a.ip[0] = 0x60;
    a.ip[5] = ICMP_LENGTH + quoted;
    a.ip[6] = IPPROTO_ICMPV6;
    a.ip[7] = HOPS;
    address_copy((__u32 *)(a.ip + 8), v->from);
    address_copy((__u32 *)(a.ip + 24), p->key.from);
    a.icmp[0] = v->mtu ? ICMP6_TOO_BIG : ICMP6_TIME_EXCEEDED;
    *(__u32 *)(a.icmp + 4) = bpf_htonl(v->mtu);
    a.pseudo[0] = bpf_htonl(ICMP_LENGTH + quoted);
    a.pseudo[1] = bpf_htonl(IPPROTO_ICMPV6);
    sum = (__u64)SUM_OF(a.ip + 8, 32) + SUM_OF(a.pseudo, 8);
    sum += SUM_OF(a.icmp, ICMP_LENGTH);
    sum += v->partial ? SUM_OF(a.quote, IP6_LENGTH) : SUM_OF(a.quote, IP6_LENGTH + TCP_HEADER);
    *(__u16 *)(a.icmp + 2) = checksum_fold(sum);
    if (bpf_skb_change_tail(skb, p->l3 + quoted, 0) ||
        bpf_skb_adjust_room(skb, IP6_LENGTH + ICMP_LENGTH, BPF_ADJ_ROOM_MAC, 0))
        return -1;
    return bpf_skb_store_bytes(skb, p->l3, &a, IP6_LENGTH + ICMP_LENGTH, BPF_F_RECOMPUTE_CSUM);
}

/* Send the packet back where it came from: what the host's rules were asked about came by another device. */
INLINE int packet_send_back(struct __sk_buff *skb, const struct lan_packet *p)
{
    __u32 device = skb->ifindex;
    __u8 macs[12], swapped[12];

    OPAQUE(device);
    if (host_rules_accepted(skb))
        device = CB_GET(skb, CB_HOME);
    if (p->l3) {
        if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
            return TC_ACT_SHOT;
        __builtin_memcpy(swapped, macs + 6, 6);
        __builtin_memcpy(swapped + 6, macs, 6);
        if (bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), BPF_F_RECOMPUTE_CSUM))
            return TC_ACT_SHOT;
    }
    return bpf_redirect(device, 0);
}

/* Whether a packet answers a client of the LAN from a socket of this host, over lo: what lo takes says nothing of the way
 * ahead, and here is where its sender would cut it up. */
INLINE int sender_is_here(struct lan_packet *p)
{
    struct nat_flow *flow;

    if (p->key.protocol != IPPROTO_UDP)
        return 0;
    flow = nat_flows_v1.lookup(&p->key);
    return flow && flow->state & FLOW_REPLY && KIND_OF(flow->state) == KIND_LOOP;
}

/* Whether somebody may be told once more that a packet went no further: so many a second each, as many at once. Beside the
 * sources that open flows, under an address that none has. */
INLINE int expiry_may_be_told(const struct lan_packet *p)
{
    struct source source;

    address_copy(source.address, p->key.from);
    source.address[0] ^= bpf_htonl(0xff000000);
    return source_may(&source, EXPIRED_EACH);
}

/* What the sender is to hear from this host: from the address that it had sent to, where that is one of the LAN's. On links
 * that may be another host's, so the site's own is named. */
INLINE void verdict_fill(const struct __sk_buff *skb, const struct lan_packet *p, struct verdict *v)
{
    __u32 zero = 0;
    struct link_config *link = link_config_v2.lookup(&zero);

    v->mtu = CB_GET(skb, CB_MTU);
    v->partial = 0;
    address_copy(v->from, p->key.to);
    if (v->mtu || CB_GET(skb, CB_DENY) != 1 || !link)
        return;
    if (p->v6)
        address_copy(v->from, link->overlay6.word);
    else
        v->from[3] = link->overlay4.word[0];
}

/* Whether the packet is to be answered, or cut up. Returns 0 for neither. */
INLINE int packet_deserves_answer(struct __sk_buff *skb, struct lan_packet *p)
{
    if (CB_GET(skb, CB_MTU) == MTU_NONE) {
        drop_count(REASON_HOP_LIMIT);
        return expiry_may_be_told(p);
    }
    if (!p->whole || sender_is_here(p)) {
        CB_SET(skb, CB_DENY, FROM_TOO_BIG);
        nat_programs_v1.call(skb, NAT_ODD);
    }
    drop_count(REASON_TOO_BIG);
    return p->whole;
}

int lan_too_big(struct __sk_buff *skb)
{
    struct lan_packet p;
    struct verdict verdict;
    __u32 sum_at;
    __u16 none = 0;

    if (lan_packet_parse_first(skb, &p, CB_GET(skb, CB_LINK) & 15))
        return packet_refuse(REASON_MALFORMED);
    if (p.v6 && p.next == NEXT_HOP_BY_HOP && lan_packet_cut_jumbo(skb, &p))
        return packet_refuse(REASON_TOO_BIG);
    verdict_fill(skb, &p, &verdict);
    if (!packet_deserves_answer(skb, &p))
        return TC_ACT_SHOT;
    /* A checksum that the device shall put into the quote makes the quoted segment sum up to nothing, provided that the
     * field is 0 before; so the ICMP checksum can be known already. */
    sum_at = p.l4 + (p.key.protocol == IPPROTO_TCP ? 16 : 6);
    verdict.partial = checksum_is_partial(skb, sum_at);
    if (verdict.partial && bpf_skb_store_bytes(skb, sum_at, &none, sizeof(none), 0))
        return TC_ACT_SHOT;
    if (p.v6 ? icmp_answer6(skb, &p, &verdict) : icmp_answer4(skb, &p, &verdict))
        return TC_ACT_SHOT;
    return packet_send_back(skb, &p);
}
