/* Packets with IPv4 options, IPv6 extension headers, fragments, and IPv4's addresses in an IPv6 header: refused where they
 * are for a listener or a flow, as on link devices, and left alone otherwise. Fragments after the first name no port; without the first, which is refused
 * here, the host never puts them together. */
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

#define HEADERS_MAX 6

/* Find protocol and transport header behind IPv4 options. Returns 0 for none, else the reason to refuse it. */
INLINE int options_skip4(struct __sk_buff *skb, struct lan_packet *p)
{
    __u8 ip[IP4_LENGTH];

    if (bpf_skb_load_bytes(skb, p->l3, ip, sizeof(ip)) || (ip[0] & 15) < 5 || ((ip[6] & 0x1f) | ip[7]))
        return 0;
    p->l4 = p->l3 + (ip[0] & 15) * 4;
    return ip[6] & 0x20 ? REASON_FRAGMENT : REASON_MALFORMED;
}

/* The same behind IPv6 extension headers. */
INLINE int options_skip6(struct __sk_buff *skb, struct lan_packet *p)
{
    __u32 at = p->l4, next = p->key.protocol;
    int reason = REASON_MALFORMED;
    __u8 head[4];

    for (int i = 0; i < HEADERS_MAX; i++) {
        if (next != NEXT_HOP_BY_HOP && next != NEXT_ROUTING && next != NEXT_DESTINATION && next != NEXT_FRAGMENT)
            break;
        if (bpf_skb_load_bytes(skb, at, head, sizeof(head)))
            return 0;
        if (next == NEXT_FRAGMENT) {
            if (head[2] | (head[3] & 0xf8))
                return 0;
            reason = REASON_FRAGMENT;
            at += 8;
        } else {
            at += ((__u32)head[1] + 1) * 8;
        }
        at &= 0xffff;
        next = head[0];
    }
    p->l4 = at;
    p->key.protocol = next;
    return reason;
}

int lan_odd(struct __sk_buff *skb)
{
    struct lan_packet p;
    __u32 zero = 0;
    struct nat_config *config = nat_config_v1.lookup(&zero);
    __u16 ports[2];
    int reason;

    if (!config || lan_packet_parse(skb, &p, skb->cb[CB_LINK] & 15) != ODD)
        return TC_ACT_UNSPEC;
    reason = p.v6 ? options_skip6(skb, &p) : options_skip4(skb, &p);
    if (reason && p.v6 && (address_is_mapped(p.key.from) || address_is_mapped(p.key.to)))
        reason = REASON_MARTIAN;
    if (!reason || (p.key.protocol != IPPROTO_TCP && p.key.protocol != IPPROTO_UDP))
        return TC_ACT_UNSPEC;
    if (bpf_skb_load_bytes(skb, p.l4, ports, sizeof(ports)))
        return TC_ACT_UNSPEC;
    p.key.from_port = ports[0];
    p.key.to_port = ports[1];
    if (port_is_listened(&p.key) && listener_lookup(&p.key))
        return packet_refuse(reason);
    return nat_config_has_port(config, p.key.to_port) && nat_flows_v1.lookup(&p.key) ? packet_refuse(reason)
                                                                                     : TC_ACT_UNSPEC;
}
